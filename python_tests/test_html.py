"""What tensors and models show in a notebook: small, escaped, and what the numbers say."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny_models

import pyllm
from pyllm.auto import new_config, new_model
from pyllm.models.mlp import MLP
from pyllm.nn import Module, Parameter


class Balanced(HTMLParser):
    """Fails where tags do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in ("div", "table", "tr", "td", "th")
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def cells(page):
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_a_tensor_shows_its_numbers():
    page = pyllm.Tensor([[1.0, -0.5], [0.25, 0.0]], requires_grad=True)._repr_html_()
    Balanced(page)
    assert "Tensor (2, 2) float32, requires_grad=True" in page
    assert cells(page) == [["1", "-0.5"], ["0.25", "0"]]
    shades = [float(x) for x in re.findall(r"rgba\([\d,]+,([\d.]+)\)", page)]
    assert shades == [0.6, 0.3, 0.15, 0.0]


@pytest.mark.parametrize("shape", [(), (3,), (1000,), (50, 60), (4, 3, 20, 30), (0,), (3, 0), (0, 2, 2)])
def test_any_tensor_is_small(shape):
    page = pyllm.Tensor(np.random.default_rng(0).standard_normal(shape))._repr_html_()
    Balanced(page)
    assert str(shape) in page and len(page) < 8000
    rows = cells(page)
    assert len(rows) <= 9 and all(len(row) <= 11 for row in rows) and bool(rows) == (0 not in shape)
    assert ("<td>...</td>" in page) == (max(shape, default=0) > 10)


def test_numbers_that_are_not_finite_show():
    page = pyllm.Tensor([np.nan, np.inf, -np.inf, 2.0])._repr_html_()
    Balanced(page)
    assert cells(page) == [["nan", "inf", "-inf", "2"]]


def test_a_model_shows_its_parts():
    config = tiny_models.gpt2_config()
    model = new_model(new_config("gpt2", **{k: config[k] for k in ("n_embd", "n_layer", "n_head", "vocab_size")}))
    page = model._repr_html_()
    Balanced(page)
    rows = cells(page)
    assert rows[0] == ["parameter", "shape", "times", "numbers"] and len(page) < 4000
    assert ["layers.*.attention.q.weight", "64 x 64", "2", "8,192"] in rows
    assert sum(int(row[3].replace(",", "")) for row in rows[1:]) == model.num_parameters()
    assert f"GPT2: {model.num_parameters():,} parameters" in page
    assert ["layers.*.weight", "4 x 5", "1", "20"] in cells(MLP(5, 4, 3)._repr_html_())


def test_names_are_escaped():
    part = Module()
    setattr(part, "<script>", Parameter(2))
    page = part._repr_html_()
    Balanced(page)
    assert "&lt;script&gt;" in page
