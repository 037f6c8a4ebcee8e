"""ExecuTorch programs (`.pte`, XNNPACK) of the Fashion-MNIST nets: built, run, measured.

    pip install torch==2.13.0 executorch==1.5.1 safetensors psutil msgspec numpy    (an environment of its own)
    python -m benchmarks.pte

Each net is exported in float32, run on 1,000 test pictures one by one, and compared with torch's own outputs. Memory
is the peak of a fresh process above what the runtime takes for a model of one Relu.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.cpu_truth import RESULTS, machine
from benchmarks.nets import NETS, fashion, trained
from enxuto.compressing.runtimes import runtime
from enxuto.compressing.runtimes.measuring import measure
from enxuto.records import write_atomically

PICTURES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One net: bytes of its program, right answers, the same of torch's, the largest difference of a logit, memory in
    bytes above the runtime's own, and the median milliseconds of a picture."""

    net: str
    file_bytes: int
    gzip_bytes: int
    right: int
    torch_right: int
    same: int
    largest_difference: float
    above_base_bytes: int
    milliseconds: float


def row_of(name: str, folder: Path) -> Row:
    """Build, run and measure one net."""
    et, net, data = runtime("executorch"), trained(name), fashion.test().first(PICTURES)
    pictures, path = data.inputs[0], folder / f"{name}.pte"
    artefact = et.export(net, (pictures[:1],), path, dynamic_batch=False)
    run = et.load(path)
    outputs = np.concatenate([run(pictures[i : i + 1].numpy())[0] for i in range(PICTURES)])
    with torch.no_grad():
        expected = net(pictures).numpy()
    assert data.targets is not None
    cost = measure(path, (pictures[:1],), runtime=et)
    answers, own = outputs.argmax(1), expected.argmax(1)
    return Row(
        net=name,
        file_bytes=artefact.file_bytes,
        gzip_bytes=artefact.gzip_bytes,
        right=int((answers == data.targets.numpy()).sum()),
        torch_right=int((own == data.targets.numpy()).sum()),
        same=int((answers == own).sum()),
        largest_difference=float(np.abs(outputs - expected).max()),
        above_base_bytes=cost.above_base_bytes,
        milliseconds=1000 * cost.latency.median,
    )


def main() -> int:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NETS:
            rows.append(row_of(name, Path(folder)))
            print(rows[-1], flush=True)
    versions = [list(each) for each in runtime("executorch").versions()]
    content = {"machine": machine(), "versions": versions, "rows": [asdict(row) for row in rows]}
    write_atomically(RESULTS / "pte.json", (json.dumps(content, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
