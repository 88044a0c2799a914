"""The layers of the flattened CNN have as many parameters as the official repository's."""

from regroup.networks import create_model


def test_layers_have_the_official_numbers_of_parameters() -> None:
    for name, expected in (
        ("flattened_cnn", [12_000, 32_000, 104_960]),
        ("flattened_cnn_dense", [7_296, 307_328, 819_456]),
    ):
        model = create_model(name)
        layers = [model.stem, *model.stages[:2]]
        assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == expected
