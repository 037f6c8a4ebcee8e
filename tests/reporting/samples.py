"""Records built by hand for the tests of `reporting`: something like ResNet-50, one with hostile names."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np

from enxuto.records import (
    CATEGORIES,
    CATEGORY_CODE,
    PHASE_CODE,
    Alternative,
    Block,
    Blocks,
    Calls,
    Category,
    CategoryCurve,
    Change,
    CurveSample,
    Difference,
    Explanation,
    Facts,
    Finding,
    Growth,
    Instant,
    ModuleShare,
    Ops,
    Owner,
    Phase,
    PhaseCost,
    PhaseSpan,
    Ragged,
    Saves,
    Share,
    Site,
    SiteShare,
    Timeline,
    World,
)

KIB, MIB = 2**10, 2**20
MODEL, TRAIN = "/home/ana/projects/vision/nets/resnet.py", "/home/ana/projects/vision/train.py"

SCRIPT, MARKUP, HANDLER = "<script>alert(1)</script>", "[red]x[/red]", '"><img src=x onerror=alert(2)>'
ESCAPE, TRACE = "\x1b[31mred\x1b[0m\n", "%{customdata}<b>bold</b>@text"
HOSTILE = (SCRIPT, MARKUP, HANDLER, ESCAPE, TRACE)


class Step:
    """A step played by hand: bytes come and go by (module, category), every event is sampled."""

    def __init__(self) -> None:
        self.alive: Counter[tuple[str, Category]] = Counter()
        self.history: list[dict[tuple[str, Category], int]] = []
        self.labels: list[str] = []
        self.spans: list[PhaseSpan] = []

    def move(self, module: str, category: Category, nbytes: int) -> None:
        self.alive[module, category] += nbytes

    def event(self, op: str, module: str, site: Site) -> None:
        self.history.append({key: size for key, size in self.alive.items() if size})
        self.labels.append(f"{op} · {module or '(outside modules)'} · {site}")

    def phase(self, phase: Phase, start: int) -> None:
        self.spans.append(PhaseSpan(phase=phase, start=start, stop=len(self.history)))

    @property
    def peak_tick(self) -> int:
        totals = [sum(now.values()) for now in self.history]
        return totals.index(max(totals))

    def curve(self) -> CurveSample:
        present = [c for c in CATEGORIES if any(key[1] is c for now in self.history for key in now)]
        lines = {
            c: [sum(n for key, n in now.items() if key[1] is c) for now in self.history] for c in present
        }
        return CurveSample(
            ticks=tuple(range(len(self.history))),
            categories=tuple(CategoryCurve(category=c, nbytes=tuple(lines[c])) for c in present),
            labels=tuple(self.labels),
            phases=tuple(self.spans),
            total_ticks=len(self.history),
        )


def _layers() -> list[tuple[str, int, int, int]]:
    """(module, parameter bytes, bytes saved for the backward, source line) in the order of the forward."""
    layers = [("conv1", 37632, 98 * MIB, 20), ("bn1", 512, 98 * MIB, 21), ("maxpool", 0, 49 * MIB, 23)]
    channels, side = 64, 56
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for index in range(blocks):
            area = 32 * side * side * 4
            base = f"layer{stage}.{index}"
            for conv, (inner, outer, kernel) in enumerate(
                ((channels, width, 1), (width, width, 3), (width, 4 * width, 1)), start=1
            ):
                layers += [
                    (f"{base}.conv{conv}", inner * outer * kernel**2 * 4, inner * area, 30 + conv),
                    (f"{base}.bn{conv}", outer * 8, outer * area, 34 + conv),
                ]
            channels = 4 * width
        side //= 2
    return [*layers, ("fc", 2048 * 1000 * 4, 32 * 2048 * 4, 60)]


def _play() -> tuple[Step, dict[str, int]]:
    step, lines = Step(), {}
    layers = _layers()
    step.move("", Category.INPUT, 32 * 3 * 224 * 224 * 4)
    for module, weight, _, line in layers:
        lines[module] = line
        step.move(module, Category.PARAMETER, weight)
        step.move(module, Category.OPTIMIZER_STATE, 2 * weight)
        if ".bn" in module or module == "bn1":
            step.move(module, Category.BUFFER, weight + 8)
    for module, _, saved, line in layers:
        step.move(module, Category.SAVED_ACTIVATION, saved)
        step.move(module, Category.TEMPORARY_FORWARD, saved // 5)
        step.event("aten.convolution" if "conv" in module else "aten.native_batch_norm", module, _site(line))
        step.move(module, Category.TEMPORARY_FORWARD, -(saved // 5))
    step.event("aten.nll_loss_forward", "", Site(file=TRAIN, line=52, function="main"))
    step.phase(Phase.FORWARD, 0)
    start = len(step.history)
    for module, weight, saved, line in reversed(layers):
        step.move(module, Category.GRADIENT, weight)
        step.move(module, Category.TEMPORARY_BACKWARD, saved)
        if "conv2" in module:
            step.move(module, Category.SCRATCH, 24 * MIB)
        step.event("aten.convolution_backward", module, _site(line))
        step.move(module, Category.SCRATCH, -step.alive[module, Category.SCRATCH])
        step.move(module, Category.TEMPORARY_BACKWARD, -saved)
        step.move(module, Category.SAVED_ACTIVATION, -saved)
        step.event("aten.threshold_backward", module, _site(line))
    step.phase(Phase.BACKWARD, start)
    start = len(step.history)
    weights = sum(weight for _, weight, _, _ in layers)
    for scale in (1, 2, 1):
        step.move("", Category.TEMPORARY_OPTIMIZER, scale * weights)
        for _ in range(4):
            step.event("aten._foreach_addcdiv_", "", Site(file=TRAIN, line=55, function="main"))
        step.move("", Category.TEMPORARY_OPTIMIZER, -scale * weights)
    step.phase(Phase.OPTIMIZER, start)
    return step, lines


def _site(line: int) -> Site:
    return Site(file=MODEL, line=line, function="forward")


WHY = {
    Category.PARAMETER: "a parameter of the model, there for the whole step",
    Category.OPTIMIZER_STATE: "AdamW's exp_avg and exp_avg_sq, 2 × 4 B per parameter",
    Category.GRADIENT: "the gradient of a parameter, kept until optimizer.zero_grad()",
    Category.SAVED_ACTIVATION: "saved by ConvolutionBackward0 for its backward, which has not run yet",
    Category.TEMPORARY_BACKWARD: "the gradient that flows back, needed by the next node",
}


def explanation(*, world: World = World.DRY, unexplained: int = 0) -> Explanation:
    """A training step of something like ResNet-50; what is `unexplained` is taken from the buffers' share."""
    step, lines = _play()
    tick = step.peak_tick
    at_peak = step.history[tick]
    peak = sum(at_peak.values())
    shares: Counter[Category] = Counter()
    blocks: Counter[Category] = Counter()
    by_site: defaultdict[Site, int] = defaultdict(int)
    for (module, category), nbytes in at_peak.items():
        shares[category] += nbytes
        blocks[category] += 1
        if category in (Category.SAVED_ACTIVATION, Category.TEMPORARY_BACKWARD, Category.SCRATCH):
            by_site[_site(lines[module])] += nbytes
    by_site[Site(file=TRAIN, line=41, function="main")] = shares[Category.PARAMETER]
    by_site[Site(file=TRAIN, line=55, function="main")] = shares[Category.OPTIMIZER_STATE]
    shares[Category.BUFFER] -= unexplained
    owners = [
        Owner(
            module=module,
            category=category,
            op="aten.convolution" if category is Category.SAVED_ACTIVATION else "",
            site=_site(lines[module]) if module in lines else None,
            nbytes=nbytes,
            blocks=1,
            why=WHY.get(category, "needed by the op that runs now"),
        )
        for (module, category), nbytes in at_peak.items()
    ]
    _, module, place = step.labels[tick].split(" · ")
    return Explanation(
        world=world,
        facts=Facts(
            workload="resnet50",
            torch="2.13.0+cpu",
            dry="fake" if world is World.DRY else "",
            device="cpu",
            batch_size=32,
            step_peaks=(peak - shares[Category.OPTIMIZER_STATE], peak, peak),
            scratch="partly assumed",
            scratch_unknown=3,
            outputs_corrected=2,
            notes=("cudnn.benchmark is off: workspaces of the default algorithms",),
        ),
        peak=peak,
        instant=Instant(
            tick=tick,
            phase=Phase.BACKWARD,
            op="aten.convolution_backward",
            module=module,
            node="ConvolutionBackward0",
            site=_site(int(place.rsplit(":", 1)[1])),
        ),
        shares=tuple(
            Share(category=c, nbytes=shares[c], blocks=blocks[c]) for c in CATEGORIES if c in shares
        ),
        unexplained=unexplained,
        modules=tuple(ModuleShare(module=m, category=c, nbytes=n) for (m, c), n in at_peak.items() if n),
        sites=tuple(SiteShare(site=site, nbytes=n, blocks=3) for site, n in by_site.items() if n),
        owners=tuple(sorted(owners, key=lambda owner: -owner.nbytes)),
        phases=_phase_costs(step),
        curve=step.curve(),
        alternatives=(
            Alternative(label="inference, with gradients on", peak=peak - 700 * MIB),
            Alternative(label="inference, under torch.no_grad()", peak=327 * MIB),
        ),
        findings=(
            Finding(
                id="first-step",
                text="Step 1 shows less than the steady step: AdamW makes its state in the first step().",
                nbytes=shares[Category.OPTIMIZER_STATE],
            ),
            Finding(
                id="conv-then-norm",
                text="The outputs of 53 convolutions are saved only for the normalisation after them.",
                nbytes=1200 * MIB,
            ),
        ),
    )


def _phase_costs(step: Step) -> tuple[PhaseCost, ...]:
    totals = [sum(now.values()) for now in step.history]
    flops = {Phase.FORWARD: 261_500_000_000, Phase.BACKWARD: 523_000_000_000, Phase.OPTIMIZER: 306_000_000}
    return tuple(
        PhaseCost(
            phase=span.phase,
            ops=span.stop - span.start,
            flops=flops[span.phase],
            peak=max(totals[span.start : span.stop]),
        )
        for span in step.spans
    )


def generation() -> Explanation:
    """A generation without gradients: keys and values grow in twelve modules."""
    step = Step()
    site = Site(file="generate.py", line=18, function="generate")
    step.move("wte", Category.PARAMETER, 150 * MIB)
    for layer in range(12):
        step.move(f"h.{layer}.attn", Category.PARAMETER, 20 * MIB)
    for token in range(40):
        for layer in range(12):
            step.move(f"h.{layer}.attn", Category.TEMPORARY_FORWARD, 12 * KIB)
        step.event("aten.cat", f"h.{token % 12}.attn", site)
    step.phase(Phase.FORWARD, 0)
    base = explanation(world=World.CPU)
    at_peak = step.history[-1]
    peak = sum(at_peak.values())
    return replace(
        base,
        facts=Facts(workload="gpt2, 40 tokens", torch="2.13.0", training=False, grad_enabled=False),
        peak=peak,
        instant=Instant(tick=39, phase=Phase.FORWARD, op="aten.cat", module="h.3.attn", node="", site=site),
        shares=(
            Share(category=Category.PARAMETER, nbytes=390 * MIB, blocks=13),
            Share(category=Category.TEMPORARY_FORWARD, nbytes=480 * 12 * KIB, blocks=12),
        ),
        modules=tuple(ModuleShare(module=m, category=c, nbytes=n) for (m, c), n in at_peak.items()),
        sites=(SiteShare(site=site, nbytes=480 * 12 * KIB, blocks=12),),
        owners=(),
        phases=_phase_costs(step)[:1],
        curve=step.curve(),
        alternatives=(),
        growth=tuple(
            Growth(module=f"h.{layer}.attn", nbytes=480 * KIB, per_token=12 * KIB) for layer in range(12)
        ),
        findings=(),
    )


def hostile() -> Explanation:
    """Names that try to be markup, scripts, escape codes and templates in every text of the record."""
    base = explanation()
    names = {layer: HOSTILE[i % len(HOSTILE)] for i, (layer, *_) in enumerate(_layers())}

    def bad(path: str) -> str:
        return f"{names[path]}.{path}" if path in names else path

    site = Site(file=f"/tmp/{SCRIPT}/{MARKUP}.py", line=3, function=HANDLER)
    everything = " ".join(HOSTILE)
    return replace(
        base,
        facts=replace(base.facts, workload=everything, device=everything, notes=HOSTILE),
        instant=replace(base.instant, op=everything, module=everything, node=everything, site=site),
        modules=tuple(replace(row, module=bad(row.module)) for row in base.modules),
        sites=tuple(replace(row, site=replace(site, line=i)) for i, row in enumerate(base.sites)),
        owners=tuple(
            replace(row, module=bad(row.module), op=everything, why=everything, site=site)
            for row in base.owners
        ),
        curve=replace(base.curve, labels=tuple(f"{everything} {label}" for label in base.curve.labels)),
        alternatives=tuple(replace(row, label=everything) for row in base.alternatives),
        growth=tuple(Growth(module=name, nbytes=64, per_token=2) for name in HOSTILE),
        findings=tuple(replace(row, id=SCRIPT, text=everything) for row in base.findings),
    )


def empty() -> Explanation:
    """Nothing ran and nothing was alive."""
    return Explanation(
        world=World.CPU,
        facts=Facts(workload="nothing", torch="2.13.0"),
        peak=0,
        instant=Instant(tick=0, phase=Phase.BEFORE, op="", module="", node="", site=None),
        shares=(),
        unexplained=0,
        modules=(),
        sites=(),
        owners=(),
        phases=(),
        curve=CurveSample(ticks=(), categories=(), labels=(), phases=(), total_ticks=0),
    )


def difference() -> Difference:
    """One layer grew, one went, one is new."""
    return Difference(
        before="main",
        after="wide [b]head[/b] <i>",
        peak=Change(label="peak", before=100 * MIB, after=140 * MIB),
        categories=(
            Change(label="parameter", before=60 * MIB, after=90 * MIB),
            Change(label="saved activation", before=40 * MIB, after=50 * MIB),
        ),
        modules=(
            Change(label="head", before=20 * MIB, after=80 * MIB),
            Change(label="neck", before=20 * MIB, after=0),
            Change(label=SCRIPT, before=0, after=MIB),
            Change(label="", before=60 * MIB, after=59 * MIB),
        ),
    )


def timeline() -> Timeline:
    """Three blocks on a clock of four ticks; the peak, 7 KiB, is at tick 2."""
    blocks = [
        _block(4 * KIB, Category.PARAMETER, born=0, natural=4),
        _block(2 * KIB, Category.SAVED_ACTIVATION, born=1, natural=3),
        _block(KIB, Category.TEMPORARY_FORWARD, born=2, natural=3),
    ]
    nothing = np.zeros(0, np.int64)
    empty_rows = Ragged.of([])
    return Timeline(
        world=World.DRY,
        ticks=4,
        blocks=_blocks(blocks),
        saves=Saves(
            block=nothing,
            pack=nothing,
            unpacks=empty_rows,
            local_ends=empty_rows,
            release=nothing,
            call=nothing,
            node=nothing,
        ),
        calls=Calls(
            module=nothing,
            parent=nothing,
            phase=nothing,
            enter=nothing,
            exit=nothing,
            arguments=empty_rows,
            hooked=nothing.astype(bool),
            extras=nothing.astype(np.int32),
            returns=nothing,
        ),
        ops=Ops(
            name=nothing,
            tick=nothing,
            phase=nothing,
            call=nothing,
            site=nothing,
            node=nothing,
            signature=nothing,
            flops=nothing,
            scratch=nothing,
            reads=empty_rows,
            writes=empty_rows,
        ),
        phases=(PhaseSpan(phase=Phase.FORWARD, start=0, stop=4),),
        accumulations=(),
        names=(),
        sites=(),
        signatures=(),
        facts=Facts(workload="tiny", torch="2.13.0", batch_size=1),
    )


def _block(nbytes: int, category: Category, *, born: int, natural: int) -> Block:
    return Block(
        id=0,
        nbytes=nbytes,
        category=category,
        phase=Phase.FORWARD,
        born=born,
        natural=natural,
        name=-1,
        op=-1,
        call=-1,
        site=-1,
    )


def _blocks(blocks: list[Block]) -> Blocks:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(block, name) for block in blocks], np.int64)

    return Blocks(
        nbytes=column("nbytes"),
        category=np.array([CATEGORY_CODE[block.category] for block in blocks], np.int64),
        phase=np.array([PHASE_CODE[block.phase] for block in blocks], np.int64),
        born=column("born"),
        natural=column("natural"),
        name=column("name"),
        op=column("op"),
        call=column("call"),
        site=column("site"),
    )
