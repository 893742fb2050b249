"""A linear map with a bounded norm from voxels into the space of the concept bank, trained by InfoNCE.

Linear maps trained by InfoNCE against embeddings of the stimuli, with weight decay, are reported to decode fMRI better
than ridge (Ciferri, Ferrante & Toschi 2026, "Retrieval-Based Brain Decoding by Alignment, not Complexity"). With x_i a
pattern, c_i its class and u_c the embedding of class c, centred and of length one, W minimises

    sum_i -log softmax_c(<W x_i, u_c>) at c_i  +  alpha / 2 ||W||_F^2.

What differs from that source, and why:

- The positive is the embedding of the item's class, and the negatives are those of the other classes that occur among
  the training items, each once. In-batch negatives (van den Oord et al. 2018) would hold the positive itself as often
  as its class occurs. Classes of the bank that do not occur are no negatives: the test classes are among them
  (sec. 4.1), and a map that is always pushed away from a class cannot decode it.
- Predictions are not normalised. A cosine is the same for W and 2 W, so that no constraint on the norm would act on it.
  Here each penalty alpha stands for a largest norm of W (its Lagrange multiplier), and a temperature of the products is
  the same setting once more: temperature tau with alpha is temperature 1 with alpha tau^2.
- The loss is then convex, and L-BFGS on all items finds its minimum: no rate, batch, number of epochs or starting point
  to choose, and no chance.

The penalty is chosen by cross-validation over training categories, and predictions are brought to the mean and spread
of the training targets, both as ``ridge`` does; InfoNCE leaves their scale open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from cnd.decoders.affine import AffineDecoder
from cnd.decoders.conditioned import ByEmbedding
from cnd.decoders.ridge import mean_correlation, parameters
from cnd.errors import UserError
from cnd.protocols import Fitted, FmriSplit, Lab, TrainingSet
from cnd.settings import Rate

MOST_ITERATIONS = 1000
GRADIENT = 1e-4  # largest entry that counts as none, in coordinates where the loss has a curvature of about one


class LinearContrastiveDecoder(AffineDecoder):
    """InfoNCE on a linear map from voxels into the concept bank, then the same frozen generator."""

    uses_labels: ClassVar[bool] = True
    has_condition: ClassVar[bool] = True
    in_steps: ClassVar[bool] = False  # it ends at the minimum of a convex loss
    shares: ClassVar[Mapping[str, float]] = {"contrast": 0.8}
    kind: Literal["linear_contrastive"] = "linear_contrastive"
    # penalties on the map, as those of ridge
    alphas: Annotated[tuple[Rate, ...], Field(min_length=1)] = (1e3, 1e2, 1e1, 1.0)
    n_splits: Annotated[int, Field(ge=2)] = 5  # cross-validation over training categories

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Learn the map from each training item's fMRI and class.

        Raises:
            UserError: fewer than two items, or all of one class.
        """
        bank = lab.generator.concept_bank.cpu().numpy()
        report = lambda fraction: lab.report("contrast", fraction, 0, {})  # noqa: E731
        predict, facts = fit(self, train.items, lab.classes, bank, report)
        return ByEmbedding(predict, lab, facts)


def fit(
    config: LinearContrastiveDecoder,
    train: FmriSplit,
    classes: np.ndarray,
    bank: np.ndarray,
    report: Callable[[float], None] = lambda fraction: None,
) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, float]]:
    """A function from fMRI to predicted class embeddings, and the chosen penalty with the norm of its map.

    The penalty maximises the mean correlation of out-of-fold predictions with the target, as that of ridge does.

    Args:
        classes: of each training item, int [n_train].
        bank: embeddings of all classes, [n_classes, width].

    Returns:
        a function from [n, voxels] to float32 [n, width], and facts.

    Raises:
        UserError: fewer than two items, or all of one class.
    """
    from cnd.linear.folds import folds_of

    if len(np.unique(classes)) < 2:
        raise UserError(
            f"decoder.kind = {config.kind}: contrasts classes, and all training items are of one; use ridge"
        )
    targets, fmri = bank[classes].astype(np.float64), train.fmri.astype(np.float64)
    alphas = sorted(config.alphas, reverse=True)
    fold = folds_of(len(targets), config.n_splits, train.category)
    held_out = np.empty((len(alphas), *targets.shape))
    for index in np.unique(fold):
        held = fold == index
        centre = fmri[~held].mean(0)
        for rank, found in enumerate(contrastive_maps(fmri[~held] - centre, classes[~held], bank, alphas)):
            held_out[rank, held] = (fmri[held] - centre) @ found
        report((index + 1) / (fold.max() + 2))
    best = int(np.argmax([mean_correlation(under_penalty, targets) for under_penalty in held_out]))
    centre = fmri.mean(0)
    *_, chosen = contrastive_maps(fmri - centre, classes, bank, alphas[: best + 1])
    report(1.0)
    scale = targets.std(0) / np.maximum(held_out[best].std(0), 1e-6)

    def predict(others: np.ndarray) -> np.ndarray:
        return (targets.mean(0) + ((others - centre) @ chosen) * scale).astype(np.float32)

    facts = {"contrastive_alpha": alphas[best], "map_norm": float(np.linalg.norm(chosen))}
    return predict, facts | {"parameters": parameters(train, targets)}


def unit_embeddings(bank: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the classes that occur, centred and of length one, and the position of each item's among them.

    Returns:
        float64 [n_occurring, width] and int [n_items].
    """
    occurring, position = np.unique(classes, return_inverse=True)
    centred = bank[occurring].astype(np.float64)
    centred -= centred.mean(0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12), position


def info_nce(predicted: np.ndarray, units: np.ndarray, position: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss summed over items, and its gradient with respect to the predictions, [n_items, width].

    Args:
        predicted: [n_items, width]. units: of the classes, [n_classes, width].
        position: of each item's class among them, int [n_items].
    """
    logits = predicted @ units.T
    logits -= logits.max(1, keepdims=True)
    weights = np.exp(logits)
    total = weights.sum(1, keepdims=True)
    loss = np.log(total).sum() - logits[np.arange(len(logits)), position].sum()
    return float(loss), (weights / total) @ units - units[position]


def contrastive_maps(X: np.ndarray, classes: np.ndarray, bank: np.ndarray, alphas: Sequence[float]) -> list[np.ndarray]:
    """The map of least penalised loss under each penalty, each [n_features, width]; a search starts at the one before.

    W lies in the span of the patterns (the representer theorem). It is searched for by its coefficients on the right
    singular vectors of X, each scaled so that the loss has a curvature of about one there while all classes are
    equally likely. Without that L-BFGS would go on along the few directions that most of the variance lies in.

    Args:
        X: [n_items, n_features], centred. classes: [n_items]. bank: [n_classes, width].
    """
    from scipy.linalg import svd
    from scipy.optimize import minimize

    units, position = unit_embeddings(bank, classes)
    left, singular, right = svd(X, full_matrices=False)
    keep = singular > singular.max(initial=0) * max(X.shape) * np.finfo(np.float64).eps
    scores, right = left[:, keep] * singular[keep], right[keep]
    shape = (scores.shape[1], units.shape[1])
    curvature = np.square(singular[keep]) * np.square(units).mean()
    coefficients, maps = np.zeros(shape), []
    for alpha in alphas:
        step = 1 / np.sqrt(curvature + alpha)[:, None]

        def objective(flat: np.ndarray, step: np.ndarray = step, alpha: float = alpha) -> tuple[float, np.ndarray]:
            at = flat.reshape(shape) * step
            loss, gradient = info_nce(scores @ at, units, position)
            return loss + alpha / 2 * np.square(at).sum(), ((scores.T @ gradient + alpha * at) * step).ravel()

        options = {"maxiter": MOST_ITERATIONS, "ftol": 0, "gtol": GRADIENT}
        found = minimize(objective, (coefficients / step).ravel(), jac=True, method="L-BFGS-B", options=options)
        coefficients = found.x.reshape(shape) * step
        maps.append(right.T @ coefficients)
    return maps
