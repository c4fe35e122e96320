"""How a callback shows its picture in a notebook: IPython asks any object for `_repr_png_`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png_of(figure: Figure | None) -> bytes | None:
    """The figure as a PNG file's content; None where there is none yet, and IPython shows the text instead.

    https://ipython.readthedocs.io/en/stable/config/integrating.html
    """
    if figure is None:
        return None
    from callbacks.fit_picture import png  # matplotlib takes half a second to load

    return png(figure)
