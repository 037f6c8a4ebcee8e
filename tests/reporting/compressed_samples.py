"""Compressions built by hand: chosen, nothing chosen, an undecided one, many candidates, hostile names."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from enxuto.records import (
    Calibration,
    Candidate,
    Certificate,
    Compressed,
    Counts,
    Cut,
    CutKind,
    Judged,
    LayerNeed,
    Limits,
    OnnxRuntimeFlags,
    OptimizationLevel,
    Quartiles,
    Ranges,
    Recipe,
    Repair,
    Scheme,
    Scores,
    Settings,
)
from enxuto.records.certificate import judge
from tests.reporting.samples import HOSTILE, SCRIPT

KIB = 1024
WHOLE = 1_486_922  # parameters of the original
TUNED = OnnxRuntimeFlags(level=OptimizationLevel.EXTENDED, arena=False)

INT8 = Recipe(default=Scheme.STATIC8)
PER_TENSOR = Recipe(default=Scheme.STATIC8_TENSOR)
SPARED = INT8.with_override(
    ("features.0.weight", "classifier.3.weight", "classifier.0.weight"), Scheme.FLOAT32
)
ENTROPY = replace(INT8, calibration=Calibration(ranges=Ranges.ENTROPY))


def made(kept: float, recipe: Recipe, *repairs: Repair) -> Settings:
    cuts = () if kept == 1 else (Cut(kind=CutKind.PARAMETERS, kept_ratio=kept),)
    return Settings(cuts=cuts, repairs=repairs, recipe=recipe)


def candidate(
    settings: Settings | None,
    file: int,
    drop: float,
    *,
    ram: int = 0,
    latency: float = 0.0,
    refused: str = "",
    flags: OnnxRuntimeFlags | None = None,
) -> Candidate:
    """A candidate of a network of 92.34 %; file and ram in KiB."""
    kept = settings.kept_ratio if settings else 1.0
    return Candidate(
        settings=settings,
        parameters=round(WHOLE * kept),
        file_bytes=file * KIB,
        gzip_bytes=round(0.87 * file * KIB),
        weight_bytes=round(0.94 * file * KIB),
        covered_ratio=0.0 if settings is None else 0.97,
        ram_bytes=ram * KIB,
        latency=Quartiles(lower=0.97 * latency, median=latency, upper=1.04 * latency, runs=60)
        if latency
        else None,
        flags=flags or OnnxRuntimeFlags(),
        metric=0.9234 - drop,
        drop=drop,
        upper_drop=drop + 0.0031,
        agreement=1.0 - abs(drop) - 0.01 if settings else 1.0,
        kl=abs(drop) / 3 if settings else 0.0,
        refused=refused,
        sha256=sha256(file),
    )


def sha256(file: int) -> str:
    """Another hash for each size."""
    return hashlib.sha256(str(file).encode()).hexdigest()


QUALITY = "quality does not hold on the choosing samples"
BETTER = "another keeps the limits and is better"


def rows() -> tuple[Candidate, ...]:
    """The original, a collapse, a chosen one, and what was tried around it."""
    return (
        candidate(None, 5832, 0.0, ram=14_220),
        candidate(made(1.0, PER_TENSOR), 1502, 0.6112, refused=QUALITY),
        candidate(made(1.0, INT8), 1506, 0.0009, ram=5_100, latency=0.62, refused="the file is too large"),
        candidate(made(1.0, SPARED), 1840, 0.0003, ram=5_480, latency=0.66, refused="the file is too large"),
        candidate(made(0.42, INT8), 660, 0.0011, ram=2_310, latency=0.44, refused=BETTER),
        candidate(made(0.17, INT8, Repair.CORRECT), 271, 0.0044, ram=1_480, latency=0.31, flags=TUNED),
        candidate(made(0.09, INT8, Repair.EQUALISE, Repair.RECONSTRUCT), 152, 0.0171, refused=QUALITY),
        candidate(made(0.09, ENTROPY, Repair.FINE_TUNE), 154, 0.0122, refused=QUALITY),
    )


def certificate(counts: Counts, *, drop: float = 0.01) -> Certificate:
    return Certificate(
        metric="top1",
        higher_is_better=True,
        tolerance=drop,
        confidence=0.95,
        look=1,
        planned=1,
        evidence=counts,
        judgement=judge(counts, tolerance=drop, error=0.05),
        original=Judged(metric=0.9221, scores="a" * 64, runtime="torch 2.13.0"),
        candidate=Judged(
            metric=0.9221 - counts.drop,
            scores="b" * 64,
            runtime="onnxruntime 1.32.0",
            files=("model.onnx",),
            sha256=sha256(271),
            nbytes=271 * KIB,
        ),
        data="fedcba9876543210" * 4,
        versions=("torch 2.13.0", "onnxruntime 1.32.0"),
    )


LAYERS = tuple(
    LayerNeed(layer=name, weights=weights, kl=kl)
    for name, weights, kl in [
        ("features.0", 288, 0.0412),
        ("features.3", 18_432, 0.0187),
        ("classifier.3", 5_120, 0.0114),
        ("features.7", 36_864, 0.0071),
        ("features.10", 73_728, 0.0052),
        ("features.14", 147_456, 0.0018),
        ("classifier.0", 1_180_160, 0.0009),
        ("features.17", 12_544, 0.0004),
        ("features.20", 12_330, 0.00021),
        ("features.24", 9_216, 0.0),
    ]
)


def chosen() -> Compressed:
    """A VGG-style net of 5.7 MiB at 271 KiB, certified."""
    return Compressed(
        workload="vgg_style, Fashion-MNIST",
        runtime="onnxruntime 1.32.0",
        limits=Limits(file=300 * KIB, ram=2 * 1024 * KIB, latency_ratio=0.8, max_drop=0.01),
        metric="top1",
        candidates=rows(),
        chosen=5,
        certificate=certificate(Counts(n=10_000, hurt=121, helped=79)),
        layers=LAYERS,
        samples=(512, 5_000, 10_000),
        notes=("the search stopped at its time limit of 600 s",),
        seconds=611.4,
    )


def nothing() -> Compressed:
    """The same with limits that nothing keeps, and nothing was certified."""
    base = chosen()
    limits = Limits(file=100 * KIB, gzip=90 * KIB, max_drop=0.005)
    refused = tuple(
        replace(each, refused="the file is too large" if each.upper_drop <= 0.005 else QUALITY)
        if each.settings
        else each
        for each in base.candidates
    )
    return replace(base, limits=limits, candidates=refused, chosen=-1, certificate=None, notes=())


def undecided() -> Compressed:
    """Every limit is kept, and the samples that certify are too few."""
    base = chosen()
    best = replace(base.candidates[5], refused="certificate: undecidable")
    few = certificate(Counts(n=400, hurt=9, helped=6))
    every = (*base.candidates[:5], best, *base.candidates[6:])
    return replace(base, candidates=every, chosen=-1, certificate=few, samples=(64, 200, 400))


def scored() -> Compressed:
    """A regression: the metric has its own units; neither memory nor time was measured; no layers."""
    base = chosen()
    bare = tuple(replace(each, ram_bytes=0, latency=None) for each in base.candidates)
    scores = Scores(n=900, mean=0.0021, deviation=0.03, skewness=0.1)
    held = replace(
        base.certificate or certificate(Counts(n=1, hurt=0, helped=0)),
        metric="squared error",
        higher_is_better=False,
        evidence=scores,
        judgement=judge(scores, tolerance=0.01, error=0.05),
        original=Judged(metric=0.41, scores="", runtime="torch 2.13.0"),
        candidate=Judged(metric=0.4121, scores="", runtime="onnxruntime 1.32.0"),
    )
    limits = Limits(file=300 * KIB, max_drop=0.01)
    return replace(
        base, metric="squared error", candidates=bare, certificate=held, layers=(), limits=limits, notes=()
    )


def many() -> Compressed:
    """Sixty candidates: more than a terminal shows."""
    base = chosen()
    more = tuple(
        candidate(
            made(0.95 - 0.015 * step, INT8),
            1450 - 20 * step,
            0.001 + 0.0002 * math.sin(step) + (0.0004 * step if step > 30 else 0.0),
            ram=5_000 - 60 * step,
            latency=0.6,
            refused=QUALITY if step > 30 else "the file is too large",
        )
        for step in range(52)
    )
    return replace(base, candidates=(*base.candidates, *more))


def alone() -> Compressed:
    """An interrupted search: the original, and nothing else."""
    base = nothing()
    return replace(base, candidates=base.candidates[:1], layers=(), samples=(0, 0, 0))


def hostile() -> Compressed:
    """Every text that a model, a file or a user gives is an attack."""
    base = chosen()
    everything = " ".join(HOSTILE)
    bad = tuple(
        replace(each, refused=everything if each.refused else "", sha256=SCRIPT) for each in base.candidates
    )
    held = base.certificate
    assert held is not None
    return replace(
        base,
        workload=everything,
        runtime=f"onnxruntime {everything}",
        metric=SCRIPT,
        candidates=bad,
        certificate=replace(held, metric=SCRIPT, data=SCRIPT, versions=HOSTILE),
        layers=tuple(replace(each, layer=HOSTILE[i % len(HOSTILE)]) for i, each in enumerate(LAYERS)),
        notes=HOSTILE,
    )


def plain_file() -> Compressed:
    """Nothing was limited but the drop, and nothing certified; the runtime's settings are its own."""
    base = chosen()
    own = tuple(replace(each, flags=OnnxRuntimeFlags()) for each in base.candidates)
    return replace(base, candidates=own, limits=Limits(), certificate=None, notes=())
