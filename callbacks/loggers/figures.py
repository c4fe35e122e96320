"""Colours, limits and pixels that all pictures share.

Matplotlib loads when the first is drawn, as it takes half a second.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from callbacks.diagnosis.verdict import Fit

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

TRAIN, VAL, QUIET = "#3b6fb6", "#d1662b", "#666666"
COLOURS = {
    Fit.UNDERFIT: "#3b6fb6",
    Fit.GOOD: "#3f8f4f",
    Fit.OVERFIT: "#c23b3b",
    Fit.DIVERGED: "#7a3b9a",
    Fit.UNKNOWN: "#777777",
}
HIGHEST = 1e100  # what is larger has exploded, and matplotlib overflows at it
WIDE = 30.0  # largest over smallest validation loss from which on a logarithmic axis shows more


def rgb(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the figure as pixels `[height, width, 3]`."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has no types here
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(pixels, dtype=np.uint8)[..., :3].copy()


def png(figure: Figure) -> bytes:
    """Return the content of a PNG file of the figure. `savefig` would lay it out twice."""
    return png_of_pixels(rgb(figure))


def png_of_pixels(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Return the content of a PNG file of pixels `[height, width, 3]`."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", pil_kwargs={"compress_level": 1})  # twice as fast as 6
    return buffer.getvalue()


def png_of(figure: Figure | None) -> bytes | None:
    """Return what IPython shows, as it asks any object for `_repr_png_`; None, and it shows the text, before a fit.

    https://ipython.readthedocs.io/en/stable/config/integrating.html
    """
    return None if figure is None else png(figure)
