"""The whole loss of a mask network: weighted terms, a switch at an epoch, and the decoder's coarser outputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wsss.losses import mask_terms as terms
from wsss.options.masks import IGNORE, MaskLossConfig


class MaskLoss:
    """Weighted sum of mask losses, every part by name.

    Args:
        config: which terms with which weights, and their options.
        softmax: whether the channels exclude each other; each is then scored against all others.
    """

    def __init__(self, config: MaskLossConfig, *, softmax: bool = False) -> None:
        self.config, self.softmax = config, softmax

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weights: Tensor | None = None,
        side: Sequence[Tensor] = (),
        epoch: int = 0,
    ) -> dict[str, Tensor]:
        """Return scalars by name: 'loss' is the sum to minimise, the others its terms before weighting.

        Args:
            logits: (B, K, H, W), any float type; computed in float32 at least.
            target: (B, K, H, W) uint8: 0, 1, or 255 for pixels that must not count.
            weights: (B, 1, H, W) pixel weights of the term 'border'.
            side: coarser outputs at full size, (B, K, H, W) each (deep supervision).
            epoch: finished epochs, for the switch of terms.

        Raises:
            ValueError: shapes differ, or the term 'border' got no weights.
        """
        chosen = self.config.at(epoch)
        parts = self._terms(chosen, logits, target, weights)
        total = _weighted(chosen, parts)
        if side:
            coarse = [_weighted(chosen, self._terms(chosen, own, target, weights)) for own in side]
            parts["side"] = torch.stack(coarse).mean()
            total = total + self.config.side_weight * parts["side"]
        return {"loss": total, **parts}

    def _terms(
        self, chosen: Mapping[str, float], logits: Tensor, target: Tensor, weights: Tensor | None
    ) -> dict[str, Tensor]:
        if logits.shape != target.shape:
            raise ValueError(f"logits are {tuple(logits.shape)}, the target {tuple(target.shape)}: they must match.")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.softmax:
            logits = one_vs_rest(logits)
        valid = target != IGNORE
        truth = (target * valid).to(logits.dtype)
        return {name: self._term(name, logits, truth, valid, weights) for name in chosen}

    def _term(self, name: str, logits: Tensor, truth: Tensor, valid: Tensor, weights: Tensor | None) -> Tensor:
        config = self.config
        if name == "bce":
            return terms.bce_term(logits, truth, valid)
        if name == "dice":
            return terms.dice_term(logits, truth, valid, config.per_image)
        if name == "jaccard":
            return terms.jaccard_term(logits, truth, valid, config.per_image)
        if name == "focal":
            return terms.focal_term(logits, truth, valid, config.focal_gamma)
        if name == "ohem":
            return terms.ohem_term(logits, truth, valid, config.ohem_share)
        if name == "lovasz":
            return terms.lovasz_term(logits, truth, valid, config.per_image, config.rectifier, config.symmetric)
        if weights is None:
            raise ValueError("the loss term 'border' needs pixel weights.")
        return terms.border_term(logits, truth, valid, weights)


def one_vs_rest(logits: Tensor) -> Tensor:
    """Turn (B, K, H, W) softmax logits into logits of each class against all others: sigmoid of them is the softmax."""
    others = (torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1) for k in range(logits.shape[1]))
    rest = [torch.logsumexp(own, dim=1) for own in others]
    return logits - torch.stack(rest, dim=1)


def _weighted(chosen: Mapping[str, float], parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([weight * parts[name] for name, weight in chosen.items()]).sum()
