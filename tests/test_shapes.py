"""Annotated shapes and dtypes hold at run time, in every pooling and layout."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from maskpool import TokenBatch
from maskpool.kernels.csr import CSRKernels
from maskpool.kernels.dense import DenseKernels
from maskpool.types import Padded, SentenceEmbeddings
from tests.batches import PACKINGS, all_layouts, dense_route, tokens
from tests.poolings import BATCH_FUNCTIONS, DIM, SPECS, WEIGHTED, arguments_of, make
from tests.shapes import check_shapes, checked, checked_functions

LAYOUTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "padded": lambda: dict(zip(("token_embeddings", "attention_mask"), all_layouts(), strict=True)),
    **{name: lambda pack=pack: pack(tokens(5, DIM), [2, 0, 3]) for name, pack in PACKINGS.items()},  # type: ignore[misc]  # its default
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
either_route = pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])


@every_layout
@either_route
def test_layers(layout: str, dense: bool) -> None:
    """Every layer and the kernels that it calls keep their annotations, forward and with token weights."""
    given = LAYOUTS[layout]()
    shape = given["attention_mask"].shape if "attention_mask" in given else (5,)
    with check_shapes(), dense_route() if dense else torch.enable_grad():
        for name in SPECS:
            make(name, on_empty="nan")(**given)
            if name in WEIGHTED:
                make(name)(**given, token_weights=torch.ones(shape))


@pytest.mark.parametrize("layout", ["padded", "packed"])
@either_route
@pytest.mark.parametrize("name", BATCH_FUNCTIONS)
def test_functions(name: str, layout: str, dense: bool) -> None:
    """Every function keeps its annotations."""
    if layout == "padded":
        given = {"token_embeddings": tokens(2, 3, DIM), "attention_mask": torch.tensor([[1, 1, 0], [0, 0, 0]])}
    else:
        given = LAYOUTS["packed"]()
    with check_shapes(), dense_route() if dense else torch.enable_grad():
        checked_functions()[name](**given, **arguments_of(name, layout))


def test_wrong_annotations_are_detected() -> None:
    """A wrong shape or dtype in an annotation fails: of an argument, of a result, of a kernel on either route."""

    def wrong(token_embeddings: Padded) -> SentenceEmbeddings:
        return token_embeddings

    x, mask = all_layouts()
    with pytest.raises(TypeCheckError, match="sentences out_dim"):
        checked(wrong)(x)
    with pytest.raises(TypeCheckError, match="batch seq dim"):
        checked(wrong)(x[0])
    with pytest.raises(TypeCheckError, match="batch seq dim"):
        checked(wrong)(x.long())
    batch = TokenBatch.of(x, mask)
    assert isinstance(batch, CSRKernels)
    with pytest.raises(TypeCheckError, match="batch seq dim"):
        checked(CSRKernels.maximum, **{"return": Padded})(batch)
    with dense_route():
        padded = TokenBatch.of(x, mask)
    assert isinstance(padded, DenseKernels)
    with pytest.raises(TypeCheckError, match="batch seq dim"):
        checked(DenseKernels.maximum, **{"return": Padded})(padded)
