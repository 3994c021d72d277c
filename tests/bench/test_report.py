"""Results as people read them."""

from maskpool.bench.report import attention_table


def head(trained: str, served: str, delta: float, half: float) -> dict[str, object]:
    numbers = {"ami": 0.5, "floor": 0.02, "attention_on_pads": 0.25, "pad_fraction": 0.5}
    interval = {"delta": delta, "low": delta - half, "high": delta + half}
    return {"trained": trained, "served": served, **interval, **numbers}


def test_only_the_masked_head_is_the_reference() -> None:
    """A head whose difference is the same in every split shows it; the reference is the head with the mask alone."""
    rows = [
        head("with mask", "with mask", 0.0, 0.0),
        head("with mask", "without mask", -0.2, 0.0),
        head("without mask", "with mask", 0.0, 0.0),
        head("without mask", "without mask", -0.3, 0.01),
    ]
    changes = [cells[3] for cells in attention_table({"attention": {"rows": rows}})]
    assert changes == ["reference", "-0.200 [-0.200, -0.200]", "+0.000 [+0.000, +0.000]", "-0.300 [-0.310, -0.290]"]
