"""A training step and what it tells of each sample. Runs without Flower and Ray.

CPU: float32. CUDA: bfloat16 autocast, channels last, optional torch.compile, and no wait for the device within a block of
steps: what they told stays there until it is asked for (`Trainer.settle`).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.losses import binary_entropy, weighted_bce_dice
from clients.model import HEAD, Segmenter
from clients.objective import Batch, Terms
from clients.told import Part, Step, Untold, step_of
from configs.schema import Train

MAX_DROPPED = 10
"""Steps in a row that may have a non-finite loss before the site's round ends."""


def in_parts(batch: Batch, micro: int) -> Iterator[Batch]:
    """The batch, at most `micro` patches at a time, in order; 0: whole."""
    whole = len(batch.image_BCXYZ)
    for i in range(0, whole, micro or whole):
        some = slice(i, i + (micro or whole))
        annotated_BT = None if batch.annotated_BT is None else batch.annotated_BT[some]
        yield Batch(batch.image_BCXYZ[some], batch.target_BTXYZ[some], batch.weight_BT[some], annotated_BT)


def pick_device(wanted: str) -> torch.device:
    """auto: the first GPU if there is one. Raises ValueError for a device that is not there."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"device {wanted!r} is not to be had here ({str(error).splitlines()[0]})") from None
    return device


def uses_bfloat16(recipe: Train, device: torch.device) -> bool:
    """Whether the network runs under bfloat16 autocast on this device."""
    return recipe.precision == "bfloat16" or (recipe.precision == "auto" and device.type == "cuda")


def place(model: Segmenter, device: torch.device) -> Segmenter:
    """The model on its device; on a GPU with channels last, the layout its convolutions are fast in.

    Images need nothing: of one channel they are both layouts at once, and the first convolution goes by its weights'.
    """
    if device.type == "cuda":
        return model.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]
    return model.to(device)


@lru_cache(maxsize=2)
def compiled(model: Segmenter) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The network under torch.compile, once per process: new weights in it are no new program, so every later round of any
    site that trains in it finds it compiled.

    Between processes (actors, runs) torch shares what it generated: the graph cache (TORCHINDUCTOR_FX_GRAPH_CACHE, on unless
    0) in TORCHINDUCTOR_CACHE_DIR, one folder per user in the temporary one; a new process only traces anew.
    """
    return torch.compile(model)


def defers(device: torch.device, terms: Terms) -> bool:
    """Whether steps are deferred: on a GPU, unless the objective corrects gradients. It adds up what it corrects, and a step
    that was dropped must not be in that sum."""
    return device.type == "cuda" and terms.correct is None


class Trainer:
    """AdamW over one site's round. `rows` are the head rows of the classes that the site annotates.

    `deferred`, on a GPU: a step returns at once. Whether it was finite the device decides: if not, its update is none there.
    What was told, and what was dropped, is known after `settle`; until then a dropped step counts as one (of the warm-up
    too).

    With `micro` above 0 a batch passes the network so many patches at a time and the gradients are added up: in less memory
    the same step, up to rounding. The supervised loss is a mean over samples. So is an objective's term (distill, condist),
    or it looks at the weights only (prox, ewc): each part's term, weighted by its share of the batch, adds up to the whole.
    Clipping, and with it a correction (scaffold), comes after that. Only a network with batch norm or dropout is another
    one: its statistics are those of the part.
    """

    def __init__(
        self, model: Segmenter, rows: Sequence[int], recipe: Train, terms: Terms | None = None, micro: int = 0
    ) -> None:
        self.model, self.recipe, self.terms, self.micro = model.train(), recipe, terms or Terms(), micro
        self.device = next(model.parameters()).device
        self.steps = self.dropped = self._dropped_in_a_row = 0
        self._rows = torch.as_tensor(list(rows), device=self.device)
        self._others = torch.as_tensor([row for row in range(len(model.classes)) if row not in rows], device=self.device)
        self.deferred = defers(self.device, self.terms)
        self._untold = Untold()
        self._run = compiled(model) if recipe.compile else model
        self._bfloat16 = uses_bfloat16(recipe, self.device)
        named = dict(model.named_parameters())
        head = [named[name] for name in HEAD]
        rest = [tensor for name, tensor in named.items() if name not in HEAD]
        # AdamW would decay head rows that get no gradient: theirs is done by hand, for the annotated rows only.
        groups = [{"params": rest, "weight_decay": recipe.weight_decay}, {"params": head, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
        self._head, self._parameters = head, rest + head

    def step(
        self, image_BCXYZ: Tensor, target_BTXYZ: Tensor, weight_BT: Tensor, annotated_BT: Tensor | None = None
    ) -> Step | None:
        """One step, of patches in which all annotated classes were drawn, or those of `annotated_BT`.

        Returns None if the loss or a gradient was not finite: then the step is dropped and counted. Deferred steps return
        None too, and `settle` what they told.

        Raises:
            ArithmeticError: MAX_DROPPED steps in a row were dropped.
        """
        self.optimizer.zero_grad(set_to_none=True)
        whole = Batch(image_BCXYZ, target_BTXYZ, weight_BT, annotated_BT)
        parts = [self._gradients(part, len(part.image_BCXYZ) / len(image_BCXYZ)) for part in in_parts(whole, self.micro)]
        loss = torch.stack([part.loss for part in parts]).sum()
        self._mask()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.clip)
        finite = torch.isfinite(loss + norm)
        if self.deferred:
            self._descend_where(finite, annotated_BT)
            self._untold.add(finite, parts)
            return None
        if not finite:
            self._drop()
            return None
        if self.terms.correct:
            self.terms.correct()
            self._mask()
        self._descend(self._rows if annotated_BT is None else self._rows[annotated_BT.any(0)])
        self.steps += 1
        self._dropped_in_a_row = 0
        return step_of(parts)

    def settle(self) -> list[Step | None]:
        """What the deferred steps since the last time told, in order, fetched at once; None: a dropped one.

        Raises:
            ArithmeticError: MAX_DROPPED steps in a row were dropped.
        """
        told = self._untold.take()
        for step in told:
            if step is None:
                self.steps -= 1
                self._drop()
            else:
                self._dropped_in_a_row = 0
        return told

    def _gradients(self, part: Batch, share: float) -> Part:
        """Add a part's gradients, weighted by its share of the batch; nothing of its graph lives on."""
        added: Tensor | float = 0.0
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits_BCXYZ, feature_BE = self._run(part.image_BCXYZ)
            if self.terms.loss:  # a teacher runs in the same precision, or it would differ from an equal student
                added = self.terms.loss(part, logits_BCXYZ.float())
        logits_BTXYZ = logits_BCXYZ.index_select(1, self._rows).float()
        loss_B, bce_B = weighted_bce_dice(logits_BTXYZ, part.target_BTXYZ, part.weight_BT)
        loss = (loss_B.mean() + added) * share
        loss.backward()
        with torch.no_grad():
            entropy_B = binary_entropy(logits_BTXYZ, part.annotated_BT)
        return Part(loss.detach(), loss_B.detach(), bce_B.detach(), entropy_B, feature_BE)

    def _mask(self) -> None:
        """Head rows of classes that the site does not annotate get no gradient, whatever the objective."""
        if len(self._others) and (self.terms.loss or self.terms.correct):  # the supervised loss never reaches them
            for tensor in self._head:
                if tensor.grad is not None:
                    tensor.grad.index_fill_(0, self._others, 0)

    def _warm(self) -> float:
        """Give AdamW this step's learning rate."""
        lr = self.recipe.lr
        if self.recipe.schedule == "rewarmed":
            lr *= min(1.0, (self.steps + 1) / self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _descend(self, rows: Tensor) -> None:
        """AdamW's step; of the head, only these rows decay."""
        lr = self._warm()
        with torch.no_grad():
            for tensor in self._head:
                tensor[rows] *= 1 - lr * self.recipe.weight_decay
        self.optimizer.step()

    def _descend_where(self, finite: Tensor, annotated_BT: Tensor | None) -> None:
        """The same where `finite` (a number on the device), else nothing at all; the host need not know which."""
        lr = self._warm()
        decay_T = finite.expand(len(self._rows)) if annotated_BT is None else annotated_BT.any(0) & finite
        kept_T = torch.ones(len(decay_T), device=self.device).masked_fill_(decay_T, 1 - lr * self.recipe.weight_decay)
        with torch.no_grad():
            kept_C = torch.ones(len(self.model.classes), device=self.device).index_copy_(0, self._rows, kept_T)
            for tensor in self._head:
                tensor.mul_(kept_C.view(-1, *[1] * (tensor.ndim - 1)))
        # What torch.amp.GradScaler tells a fused optimizer: where it is 1, parameters, moments and step counts stay.
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.steps += 1

    def _drop(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.dropped += 1
        self._dropped_in_a_row += 1
        if self._dropped_in_a_row == MAX_DROPPED:
            raise ArithmeticError(f"the loss was not finite in {MAX_DROPPED} steps in a row (lower train.lr?)")

    def moments(self) -> dict[str, NDArray]:
        """The optimizer's state by tensor name, to live on in the site's next round."""
        names: dict[torch.Tensor, str] = {tensor: name for name, tensor in self.model.named_parameters()}
        return {
            f"{names[tensor]}|{key}": value.detach().cpu().numpy().copy()
            for tensor, state in self.optimizer.state.items()
            for key, value in state.items()
        }

    def load_moments(self, moments: dict[str, NDArray]) -> None:
        """Take up the state of an earlier round; rows of classes that came since start at zero."""
        for name, tensor in self.model.named_parameters():
            if f"{name}|step" not in moments:
                continue
            state = {key: torch.as_tensor(moments[f"{name}|{key}"].copy()) for key in ("step", "exp_avg", "exp_avg_sq")}
            for key in ("exp_avg", "exp_avg_sq"):
                grown = torch.zeros_like(tensor, memory_format=torch.preserve_format)
                grown[: len(state[key])] = state[key].to(self.device)
                state[key] = grown
            state["step"] = state["step"].to(self.device)
            self.optimizer.state[tensor] = state
