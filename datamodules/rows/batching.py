"""Mini-batches without replacement, in an order that is a function of (seed, epoch), shared out among ranks.

The loader is a `torch.utils.data.DataLoader` and the orders are `DistributedSampler`s, so Lightning leaves both alone.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from datamodules.columns.encoding import Expansion

Batch = Tensor | tuple[Tensor, ...]

EVAL_ROWS = 4096  # of a batch that only goes forward: enough that the loop around it costs nothing
BLOCK_BYTES = 2**20  # of batches gathered in one go: more would not stay in the processor's cache until it is used
ON_DEVICE = 0.25  # share of an accelerator's free memory that a table may take, to be gathered from there
_ALIGNED = 64  # bytes: where torch's own tensors begin; what a product of matrices rounds to may depend on it


class Rows(Dataset[Batch]):
    """Encoded rows of a table: features `x` (float32, shape (rows, features)) and, but for prediction, targets `y`.

    With an `expansion`, `x` is as stored in a memory map, and the features of a batch are made of its rows. With a
    `weight` (float32, shape (rows,)) of each row, it is the third part of a batch.
    """

    def __init__(
        self, x: Tensor, y: Tensor | None = None, expansion: Expansion | None = None, weight: Tensor | None = None
    ) -> None:
        self.x = x
        self.y = y
        self.expansion = expansion
        self.weight = weight

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """Return the rows with targets of several tables, one after the other; mapped with unmapped become features."""
        expansion = parts[0].expansion if all(part.expansion is not None for part in parts) else None
        x = [part.features(part.x) if expansion is None else part.x for part in parts]
        y = torch.cat([part.y for part in parts if part.y is not None])
        weights = [part.weight for part in parts if part.weight is not None]
        return cls(torch.cat(x), y, expansion, torch.cat(weights) if weights else None)

    def taken(self, at: Tensor) -> "Rows":
        """Return some of the rows, by their numbers or a mask."""
        y, weight = (None if each is None else each[at] for each in (self.y, self.weight))
        return Rows(self.x[at], y, self.expansion, weight)

    def features(self, x: Tensor) -> Tensor:
        """Return the features of some rows of `self.x`."""
        return x if self.expansion is None else self.expansion(x)

    def to(self, device: torch.device) -> "Rows":
        """Return the same rows on a device."""
        expansion = self.expansion and self.expansion.converted(lambda each: each.to(device))
        y, weight = (None if each is None else each.to(device) for each in (self.y, self.weight))
        return Rows(self.x.to(device), y, expansion, weight)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int | slice) -> Batch:
        x = self.features(self.x[index]) if isinstance(index, slice) else self.features(self.x[index, None])[0]
        return self._batch(x, lambda each: each[index])

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        """Gather a whole batch at once: `torch.utils.data` calls this instead of `__getitem__` row by row."""
        at = torch.as_tensor(indices)
        return self._batch(self.features(self.x.index_select(0, at)), lambda each: each.index_select(0, at))

    def _batch(self, x: Tensor, chosen: Callable[[Tensor], Tensor]) -> Batch:
        if self.y is None:
            return x
        return (x, chosen(self.y)) if self.weight is None else (x, chosen(self.y), chosen(self.weight))


def world() -> tuple[int, int]:
    """Return (this process's rank, number of processes); (0, 1) outside distributed training."""
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class TrainOrder(DistributedSampler[int]):
    """Order of training rows: each at most once an epoch, a pure function of (seed, epoch).

    All ranks draw the same permutation and cut it into global batches of `batch_size * num_replicas` rows, of which
    each takes its own slice: so many ranks see together what one would see alone with the larger batch. Up to
    `num_replicas - 1` rows sit out an epoch (others each time), so that all ranks have equal batches.
    """

    def __init__(self, dataset: Rows, *, batch_size: int, seed: int, rank: int, num_replicas: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
        self.batch_size = batch_size
        self.rows_per_rank = len(dataset) // num_replicas

    def __len__(self) -> int:
        return self.rows_per_rank

    @property
    def n_batches(self) -> int:
        """Return the number of batches an epoch, on every rank."""
        return -(-self.rows_per_rank // self.batch_size)

    def permutation(self) -> Tensor:
        """Return all rows in this epoch's order, shape (rows,); int32 where that holds their numbers."""
        # SeedSequence mixes the pair: seed 1, epoch 0 shares nothing with seed 0, epoch 1
        state = np.random.SeedSequence([self.seed & (2**64 - 1), self.epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        rows = len(self.dataset)  # type: ignore[arg-type]
        # The same numbers in either type.
        return torch.randperm(rows, generator=generator, dtype=torch.int32 if rows < 2**31 else torch.int64)

    def batch(self, permutation: Tensor, index: int) -> Tensor:
        """Return the row numbers of this rank's batch `index`, out of the epoch's permutation."""
        done = index * self.batch_size
        share = min(self.batch_size, self.rows_per_rank - done)
        mine = done * self.num_replicas + self.rank * share
        return permutation[mine : mine + share]

    def batches(self) -> Iterator[Tensor]:
        """Return an iterator over the row numbers of this rank's batches."""
        permutation = self.permutation()
        return (self.batch(permutation, index) for index in range(self.n_batches))

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches():
            yield from batch.tolist()


class EvalOrder(DistributedSampler[int]):
    """Order of rows to evaluate: each exactly once over all ranks, in file order, a stretch for each rank.

    No row is repeated to even out the ranks; their batches differ in size by one row at most, and are equally many.
    """

    def __init__(self, dataset: Rows, *, batch_size: int, rank: int = 0, num_replicas: int = 1) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        n = len(dataset)
        self.start, self.stop = n * rank // num_replicas, n * (rank + 1) // num_replicas
        largest = -(-n // num_replicas)
        self.n_batches = min(-(-largest // batch_size), self.stop - self.start)

    def __len__(self) -> int:
        return self.stop - self.start

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield (first row, row after the last) of each batch."""
        if self.n_batches == 1:  # as what follows would have it, which takes as long as a small network's forward pass
            yield self.start, self.stop
            return
        edges = np.linspace(self.start, self.stop, self.n_batches + 1).round().astype(int).tolist()
        yield from pairwise(edges)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))


def as_it_is(batch: Any) -> Any:
    """Collate nothing: `Rows.__getitems__` already made the batch."""
    return batch


class TableLoader(DataLoader[Batch]):
    """A DataLoader that gathers each batch in one go and can continue in the middle of an epoch.

    Lightning saves `state_dict` with its loops and loads it before the first batch of a resumed epoch. `len` stays
    the number of batches of a whole epoch, as Lightning counts the batches done itself. `ahead` is called before each
    training batch: it may look at those `coming`, use some, and `move_on`, so that these are not handed out.
    """

    ahead: Callable[[], None] | None = None
    _epoch = 0
    _done = 0
    _resuming = False
    _there: tuple[torch.device, Rows | None] | None = None
    _permutation: Tensor | None = None  # of the epoch that is being handed out

    def _ordered(self) -> bool:
        # Whether the order is still ours: Lightning puts in its own to predict and to overfit.
        return isinstance(self.sampler, TrainOrder | EvalOrder) and type(self.batch_sampler) is BatchSampler

    def __len__(self) -> int:
        return self.sampler.n_batches if self._ordered() else super().__len__()  # type: ignore[attr-defined]

    def __iter__(self) -> Any:
        if not self._ordered():
            return super().__iter__()
        if isinstance(self.sampler, EvalOrder):
            rows = self._rows
            return (rows[start:stop] for start, stop in self.sampler.spans())
        return self._train()

    @property
    def _rows(self) -> Rows:
        assert isinstance(self.dataset, Rows)
        return self.dataset

    def _train(self) -> Iterator[Batch]:
        # A generator: it starts at the first `next`, and Lightning sets the epoch between `iter` and that.
        order, rows = self.sampler, self._rows
        assert isinstance(order, TrainOrder)
        # the state of an epoch that was over says nothing about the next
        if not (self._resuming and order.epoch == self._epoch and self._done < order.n_batches):
            self._done = 0
        self._epoch, self._resuming = order.epoch, False
        self._permutation = None  # before the next one takes as much again
        self._permutation = permutation = order.permutation()
        while self._done < order.n_batches:
            if self.ahead is not None:
                self.ahead()
                if self._done == order.n_batches:
                    return
            indices = order.batch(permutation, self._done)
            self._done += 1
            yield rows.__getitems__(indices)

    @property
    def is_weighted(self) -> bool:
        """Return whether batches have the weights of their rows as a third part."""
        return self._rows.weight is not None

    def coming(self, n: int) -> Sequence[Tensor]:
        """Return the row numbers of the next n training batches, fewer at an epoch's end; none in another's order."""
        order = self.sampler
        if not isinstance(order, TrainOrder) or self._permutation is None:
            return []
        stop = min(self._done + n, order.n_batches)
        return [order.batch(self._permutation, index) for index in range(self._done, stop)]

    def gather(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the training rows of these numbers, as a batch on the device."""
        rows = self._rows
        if device.type != "cpu" and (there := self._rows_on(device, rows)) is not None:
            rows, indices = there, indices.to(device)
        assert rows.y is not None
        x = rows.features(rows.x.index_select(0, indices))
        return x.to(device), rows.y.index_select(0, indices).to(device)

    def gather_each(self, batches: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training rows of each batch; small ones are gathered together, as the calls cost more."""
        rows = self._rows
        assert rows.y is not None
        widths = [part.nbytes for part in (rows.features(rows.x[:1]), rows.y[:1])]
        at = 0
        while at < len(batches):
            size = len(batches[at])
            unaligned = any(size * width % _ALIGNED for width in widths)
            fits = 1 if unaligned else max(1, BLOCK_BYTES // max(1, size * sum(widths)))
            block = [each for each in batches[at : at + fits] if len(each) == size]  # the last of an epoch is shorter
            x, y = self.gather(torch.cat(block) if len(block) > 1 else block[0], device)
            yield from zip(torch.split(x, size), torch.split(y, size), strict=True)
            at += len(block)

    def _rows_on(self, device: torch.device, rows: Rows) -> Rows | None:
        # The whole table on an accelerator, copied there once; None where it would take much of its memory.
        if self._there is None or self._there[0] != device:
            assert rows.y is not None
            size = rows.x.nbytes + rows.y.nbytes
            fits = device.type == "cuda" and size < ON_DEVICE * torch.cuda.mem_get_info(device)[0]
            self._there = device, rows.to(device) if fits else None
        return self._there[1]

    def move_on(self, n: int) -> None:
        """Count the next n training batches as handed out."""
        self._done += n

    def state_dict(self) -> dict[str, int]:
        """Return where the epoch stands: its number and the batches handed out, the same on every rank."""
        return {"epoch": self._epoch, "batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken, if the next epoch asked for is that one."""
        self._epoch, self._done, self._resuming = state["epoch"], state["batches"], True


def train_loader(rows: Rows, batch_size: int, seed: int) -> TableLoader:
    """Make the loader of shuffled mini-batches, for this rank; `batch_size` is a rank's."""
    rank, n = world()
    order = TrainOrder(rows, batch_size=batch_size, seed=seed, rank=rank, num_replicas=n)
    return _loader(rows, order, batch_size)


def eval_loader(rows: Rows, batch_size: int) -> TableLoader:
    """Make the loader of every row once over all ranks, in file order."""
    return predict_loader(rows, batch_size, *world())


def predict_loader(rows: Rows, batch_size: int, rank: int = 0, n: int = 1) -> TableLoader:
    """Make the loader of a rank's rows in file order; by default all, the same on every rank, as rank 0 writes them."""
    size = max(batch_size, EVAL_ROWS)
    return _loader(rows, EvalOrder(rows, batch_size=size, rank=rank, num_replicas=n), size)


def _loader(rows: Rows, order: DistributedSampler[int], batch_size: int) -> TableLoader:
    # A generator of its own, else a DataLoader draws from the global one at every `iter` and shifts dropout.
    generator = torch.Generator()
    return TableLoader(rows, batch_size=batch_size, sampler=order, collate_fn=as_it_is, generator=generator)
