"""The generated page of all networks is up to date and says what the networks claim."""

from __future__ import annotations

from docs import generate

from regroup.networks import networks

DATA = generate.load()


def test_the_page_is_what_its_data_make():
    assert generate.PAGE.read_text() == generate.page(DATA), "run `make docs`"


def test_the_counts_on_the_page_are_the_published_ones():
    for name, figures in DATA["networks"].items():
        claims = networks[name].claims
        assert (figures["parameters"], tuple(figures["size"])) == (claims.parameters, claims.size), name
        assert round(figures["macs"] / 1e6, 1) == claims.mega_macs, name


def test_no_operator_was_taken_to_mix_everything():
    assert not {name: f["assumed"] for name, f in DATA["networks"].items() if f["assumed"]}
