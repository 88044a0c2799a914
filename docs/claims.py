"""Write docs/claims.md: what is said of grouped convolution, each claim measured by an experiment.

    python -m docs.claims                    what is missing and needs no training (a minute), and the page
    python -m docs.claims --train            also those that train: half an hour; what is done is kept
    python -m docs.claims --only 4 11        these alone, again
    python -m docs.claims --image 32         train on images of 32 pixels only

What was found is kept in docs/claims.json after every experiment; trainings in build/claims.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs.trainings  # noqa: F401  # registers the claims that train
from docs.experiments import CLAIMS, Claim, Setting

DATA, PAGE = Path(__file__).with_name("claims.json"), Path(__file__).with_name("claims.md")
SEEDS, IMAGES = 3, (32, 64)

_HEAD = """# What is said of grouped convolution, tested

Teaching texts say these things of grouped convolution. Each is held against an experiment that anybody can
run: `python -m docs.claims` measures those without training and writes this page, `--train` the others too.
Trainings are of a small ResNet on drawn capital letters of 32 and 64 pixels, tested in fonts that it has not
seen; three seeds, *spread* is the standard deviation over them. They are short (six epochs of 5200 images
of 32 pixels, or 2600 of 64): what is said of accuracies holds for such trainings.

The verdict is what came out. A difference is *shown* where it is more than chance makes, both among test
images (by the evidence of [`regroup compare`](compare.md)) and among seeds (Welch's t, 5 per cent); this rule
was changed once after results had been seen. Three seeds show large differences only, so *not shown* does not
mean that there is none: which way it came out is said."""


def main(argv: list[str] | None = None) -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="also the experiments that train")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of claims to measure again")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each network")
    parser.add_argument("--image", type=int, nargs="*", default=IMAGES, help="sides of the images")
    parser.add_argument("--out", type=Path, default=Path("build/claims"), help="directory of the trainings")
    options = parser.parse_args(argv)
    found = load()
    for number, claim in sorted(CLAIMS.items()):
        wanted = number in options.only if options.only else claim.name not in found
        for image in options.image if claim.trains else (0,):
            key = f"{claim.name} {image}" if image else claim.name
            if (options.train or not claim.trains) and (wanted or (image and key not in found)):
                found[key] = claim.measure(Setting(image, options.seeds, options.out))
                DATA.write_text(json.dumps(found, indent=1) + "\n")
                print(f"{number}. {claim.said} {found[key]['verdict']}", flush=True)
    PAGE.write_text(page(found))


def load() -> dict[str, dict[str, Any]]:
    """Return what was found, by claim and size of the images."""
    return json.loads(DATA.read_text()) if DATA.exists() else {}


def page(found: dict[str, dict[str, Any]]) -> str:
    """Return the page."""
    lines = [_HEAD, "", "| | claim | verdict |", "|---|---|---|"]
    results = {number: _results(claim, found) for number, claim in sorted(CLAIMS.items())}
    for number, claim in sorted(CLAIMS.items()):
        verdicts = dict.fromkeys(result["verdict"] for _, result in results[number])
        lines.append(
            f"| {number} | [{claim.said}](#claim-{number}) | {'; '.join(verdicts) or 'not measured yet'} |"
        )
    for number, claim in sorted(CLAIMS.items()):
        lines += [
            "",
            f"(claim-{number})=",
            f"## {number}. {claim.said}",
            "",
            *_section(number, claim, results[number]),
        ]
    return "\n".join([*lines, ""])


def _results(claim: Claim, found: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    own = [(key, result) for key, result in found.items() if key.partition(" ")[0] == claim.name]
    return sorted(own, key=lambda one: int(one[0].partition(" ")[2] or 0))


def _section(number: int, claim: Claim, results: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    yield claim.experiment
    yield ""
    for key, result in results:
        image = key.partition(" ")[2]
        if image:
            yield f"Images of {image} pixels:"
            yield ""
        yield f"| {' | '.join(result['columns'])} |"
        yield "|---|" + "---:|" * (len(result["columns"]) - 1)
        yield from (f"| {' | '.join(row)} |" for row in result["rows"])
        yield ""
        yield f"**{result['verdict'][0].upper()}{result['verdict'][1:]}.** {result['because']}"
        yield ""
    if not results:
        yield f"Not measured yet: `python -m docs.claims {'--train ' * claim.trains}--only {number}`."


if __name__ == "__main__":
    main()
