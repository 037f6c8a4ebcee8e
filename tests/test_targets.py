"""TARGET strings: what they name, what they refuse, and what loading the user's code leaves behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from enxuto import targets
from enxuto._torch_private import DryMode, FakeTensor
from enxuto.errors import EnxutoError, MissingDependency, UsageError, UserCodeError
from enxuto.targets import ZOO, resolve
from enxuto.workload import Workload

#: Nets that the zoo builds and feeds alike; `test_nets_alike_take_every_setting` has them.
ALIKE = (
    "efficientnet_lite0",
    "mobilenet_v1",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4_conv_small",
    "resnet18",
    "resnet50",
    "shufflenet_v2",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg16",
)
SMALL = {
    "digits_cnn": "batch=2",
    "gpt": "batch=2&length=8",
    "gpt2": "batch=2&length=8",
    "llama7b": "length=8",
    "llama_tiny": "batch=2&length=8",
    "lstm": "batch=2&length=8",
    "mobilenet_v2": "batch=2&size=32&classes=10",
    "unet": "batch=2&size=16",
    "vit_small": "batch=2&size=32&classes=10",
}
NET = """
import sys
import enxuto, torch
from torch import nn
from sibling import WIDTH

def make(width=WIDTH):
    return enxuto.Workload(
        model=lambda: nn.Linear(width, 2),
        batch=lambda n=None: torch.zeros(n or 3, width),
        loss=lambda model, x: model(x).sum(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        batch_size=3,
    )

work = make()
seen_arguments = list(sys.argv)
net = nn.Linear(2, 2)
number = 3
def nothing(): pass
def needs(width): return make(width)
def fails(): raise KeyError("their own")
def misuses(): return enxuto.Workload(model=lambda: net, batch=None, loss=None)
class Net(nn.Module): pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder, its file and a module beside it; the current folder meanwhile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "sibling.py").write_text("WIDTH = 4\n")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def refusal(target: str, *, kind: type[EnxutoError] = UsageError, **options: Any) -> str:
    """The message with which a target is refused."""
    with pytest.raises(EnxutoError) as caught:
        resolve(target, **options)
    assert type(caught.value) is kind
    return str(caught.value)


# Named nets


def test_the_small_settings_cover_the_zoo() -> None:
    assert {*SMALL, *ALIKE} == set(ZOO)


@pytest.mark.parametrize("name", ALIKE)
def test_nets_alike_take_every_setting(name: str) -> None:
    work = resolve(f"zoo:{name}?batch=3&size=48&classes=7&width=0.5&optimizer=sgd")
    with torch.device("meta"):
        half, full = work.model(), resolve(f"zoo:{name}?classes=7").model()
        images, labels = work.batch()
        assert half(images).shape == (3, 7)
    assert images.shape == (3, 3, 48, 48)
    assert labels.shape == (3,)
    weights = [sum(p.numel() for p in net.parameters()) for net in (half, full)]
    assert weights[0] < weights[1] / 2


@pytest.mark.parametrize("name", SMALL)
def test_a_zoo_net_trains_and_infers_dry(name: str) -> None:
    target = f"zoo:{name}?{SMALL[name]}"
    train, infer = resolve(target), resolve(target, inference=True)
    assert train.training and not infer.training
    assert train.name == infer.name == f"zoo:{name}"
    with DryMode(allow_non_fake_inputs=True).building():
        model = train.model()
        loss = train.loss(model, train.batch())
        loss.backward()
        assert isinstance(loss, FakeTensor)
        assert loss.shape == ()
        assert model.training
        assert train.optimizer is not None
        train.optimizer(model.parameters()).step()

        model, (inputs,) = infer.model(), infer.batch()
        output = infer.loss(model, (inputs,))
        assert not model.training
        assert output.shape[0] == inputs.shape[0] == infer.batch_size


def test_defaults_are_those_of_the_entry() -> None:
    work = resolve("zoo:digits_cnn")
    images, labels = work.batch()
    assert work.batch_size == 32
    assert images.shape == (32, 1, 28, 28)
    assert labels.shape == (32,)
    assert work.batch(5)[0].shape[0] == 5


def test_settings_reach_net_and_batch() -> None:
    work = resolve("zoo:unet?batch=3&size=24&classes=5&dtype=bfloat16&optimizer=sgd")
    images, labels = work.batch()
    assert images.shape == (3, 3, 24, 24)
    assert images.dtype == torch.bfloat16
    assert labels.shape == (3, 24, 24)
    model = work.model()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(images).shape == (3, 5, 24, 24)
    assert work.optimizer is not None
    assert isinstance(work.optimizer(model.parameters()), torch.optim.SGD)


def test_generation_decodes_as_many_tokens() -> None:
    work = resolve("zoo:gpt?generate=3&batch=2")
    assert not work.training
    (prompt,) = work.batch()
    assert prompt.shape == (2, 16)
    assert work.loss(work.model(), (prompt,)).shape == (2, 19)


def test_a_generation_may_fill_the_context_and_no_more() -> None:
    assert resolve("zoo:gpt?generate=241").batch_size == 4  # 16 + 241 - 1 = 256, as the last is not fed back
    assert "need a context of 257, and this net has 256" in refusal("zoo:gpt?generate=242")
    assert "need a context of 257" in refusal("zoo:gpt?length=250&generate=8")


@pytest.mark.parametrize("text", ["nan", "-3", "0", "1e9999", "inf", "2.5", "0x10", "٣", " 3", "99999999999"])
@pytest.mark.parametrize("key", ["batch", "size", "classes"])
def test_a_size_is_a_positive_whole_number(key: str, text: str) -> None:
    message = refusal(f"zoo:resnet18?{key}={text}")
    assert f"{key} must be a positive whole number" in message
    assert repr(text) in message


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("zoo:resnet81", ["no net 'resnet81'", "did you mean resnet18", *ZOO]),
        ("zoo:", ["no net ''"]),
        (
            "zoo:lstm?bacth=3",
            ["no setting 'bacth'", "did you mean batch?", "batch, dtype, length, optimizer"],
        ),
        ("zoo:lstm?size=3", ["no setting 'size'"]),
        ("zoo:lstm?batch", ["'batch' is no setting; write key=value"]),
        ("zoo:lstm?batch=", ["'batch=' is no setting"]),
        ("zoo:lstm?batch=3&batch=3", ["batch is given twice"]),
        ("zoo:lstm?optimizer=lion", ["optimizer is one of adamw, adam, sgd, none"]),
        ("zoo:lstm?dtype=int8", ["dtype is one of float32, bfloat16"]),
        ("zoo:vit_small?size=30", ["a positive multiple of 16", "'30'"]),
        ("zoo:unet?size=12", ["a positive multiple of 8"]),
        ("zoo:squeezenet1_1?size=16", ["from 17"]),
        ("zoo:digits_cnn?size=32", ["size must be 28"]),
        ("zoo:resnet18?width=0", ["width must be a number from 0.05 to 8", "'0'"]),
        ("zoo:resnet18?width=9", ["width must be a number from 0.05 to 8"]),
        ("zoo:resnet18?width=1e0", ["width must be a number"]),
        ("zoo:resnet18?width=-1", ["width must be a number"]),
        ("zoo:shufflenet_v2?width=0.75", ["width is one of 0.5, 1.0, 1.5, 2.0, not '0.75'"]),
        ("zoo:unet?width=0.5", ["no setting 'width'"]),
        ("zoo:gpt?length=257", ["at most 256"]),
        ("zoo:gpt?generate=2&optimizer=sgd", ["generate is inference"]),
        ("zooo:resnet18", ["no module zooo", "did you mean zoo:?"]),
        ("resnet18", ["is no TARGET; did you mean zoo:resnet18?"]),
        ("", ["is no TARGET; write file.py:name"]),
        ("what ever:x", ["no module what ever"]),
    ],
)
def test_a_wrong_name_or_setting_says_what_is_right(target: str, words: list[str]) -> None:
    message = refusal(target)
    assert [word for word in words if word not in message] == []


def test_the_batch_is_given_once() -> None:
    assert resolve("zoo:lstm", batch=7).batch_size == 7
    assert resolve("zoo:lstm?batch=7", batch=7).batch_size == 7
    assert "given twice, as 8 and as 7" in refusal("zoo:lstm?batch=8", batch=7)
    assert "not '0'" in refusal("zoo:lstm", batch=0)


def test_inference_leaves_no_optimizer_to_name() -> None:
    assert not resolve("zoo:lstm?optimizer=none").training
    assert "leave out optimizer=sgd" in refusal("zoo:lstm?optimizer=sgd", inference=True)


# timm and transformers


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_a_missing_package_comes_with_its_command(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    target = {"timm": "timm:resnet18", "transformers": "hf:gpt2"}[package]
    message = refusal(target, kind=MissingDependency)
    assert f"pip install {package}" in message
    assert ("torchvision" in message) == (package == "timm")


def test_a_package_that_fails_to_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(targets.importlib, "import_module", broken)
    message = refusal("timm:resnet18", kind=MissingDependency)
    assert "operator torchvision::nms does not exist" in message
    assert torch.__version__ in message


class _Pooled(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(images.mean((2, 3)))
        return out


@pytest.mark.parametrize(("fixed", "size", "passed"), [(False, 64, None), (True, 64, 64), (True, 224, None)])
def test_timm_nets_are_built_at_the_size_asked_for(
    monkeypatch: pytest.MonkeyPatch, fixed: bool, size: int, passed: int | None
) -> None:
    calls: list[dict[str, Any]] = []

    def create(name: str, **options: Any) -> nn.Module:
        calls.append(options)
        return _Pooled(options["num_classes"])

    timm = SimpleNamespace(
        is_model=lambda name: name == "known",
        list_models=lambda: ["known"],
        get_pretrained_cfg=lambda name: SimpleNamespace(
            input_size=(3, 224, 224), num_classes=11, fixed_input_size=fixed
        ),
        create_model=create,
    )
    monkeypatch.setitem(sys.modules, "timm", timm)  # type: ignore[arg-type]
    work = resolve(f"timm:known?batch=2&size={size}")
    images, _ = work.batch()
    assert images.shape == (2, 3, size, size)
    assert work.model()(images).shape == (2, 11)
    assert [call.get("img_size") for call in calls] == [passed]
    assert [call["pretrained"] for call in calls] == [False]
    assert "did you mean known?" in refusal("timm:knwon")


@pytest.mark.zoo
def test_timm_for_real() -> None:
    pytest.importorskip("timm")
    work = resolve("timm:vit_tiny_patch16_224?batch=1&size=64&classes=5")
    assert work.loss(work.model(), work.batch()).shape == ()


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet", "vit_b_32"])
def test_torchvision_for_real(name: str) -> None:
    pytest.importorskip("torchvision", exc_type=ImportError)
    work = resolve(f"torchvision:{name}?batch=2&size=64&classes=5")
    with torch.device("meta"):
        assert work.loss(work.model(), work.batch()).shape == ()
    assert "did you mean resnet18" in refusal("torchvision:resnet81")
    assert "no classifier" in refusal("torchvision:fcn_resnet50")  # a torchvision net of another task


def test_torchvision_beside_another_torch_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingDependency, match="built for this torch"):
        resolve("torchvision:resnet18")


def test_patterns_name_nets_in_order_and_hand_settings_on() -> None:
    found = targets.matching("zoo:mobilenet_v[12]*?size=96")
    assert found == ("zoo:mobilenet_v1?size=96", "zoo:mobilenet_v2?size=96")
    assert targets.matching("zoo:*") == tuple(f"zoo:{name}" for name in sorted(ZOO))
    assert targets.matching("zoo:resnet18?size=96") == ("zoo:resnet18?size=96",)
    assert targets.matching("*.py:work") == ("*.py:work",)
    with pytest.raises(UsageError, match="no net of zoo matches 'mobilnet"):
        targets.matching("zoo:mobilnet*")


@pytest.mark.zoo
@pytest.mark.parametrize("kind", ["gpt2", "bert", "t5"])
def test_transformers_for_real(kind: str) -> None:
    pytest.importorskip("transformers")
    work = resolve(f"hf:{kind}?batch=1&length=8")
    assert work.loss(work.model(), work.batch()).shape == ()


@pytest.mark.zoo
def test_transformers_downloads_nothing(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    assert "nothing is downloaded" in refusal("hf:no-such-org/no-such-model")
    (tmp_path / "config.json").write_text("{}")
    assert "is no transformers configuration" in refusal(f"hf:{tmp_path}/config.json")


# The user's own code


@pytest.mark.parametrize("target", ["net.py:work", "net.py:make", "./net.py:work", "net:work", "net:make"])
def test_own_code_by_file_or_module(folder: Path, target: str) -> None:
    work = resolve(target)
    assert isinstance(work, Workload)
    assert work.name == target
    assert work.batch().shape == (3, 4)
    at_seven = resolve(target, batch=7)
    assert (at_seven.batch_size, at_seven.batch().shape[0]) == (7, 7)
    assert not resolve(target, inference=True).training


def test_loading_leaves_path_and_arguments_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["enxuto", "explain", "--json"])
    path = list(sys.path)
    resolve(str(folder / "net.py") + ":work")
    assert sys.path == path
    assert sys.argv == ["enxuto", "explain", "--json"]
    loaded = [
        m
        for n, m in sys.modules.items()
        if n.startswith("_enxuto_target") and m.__file__ == str(folder / "net.py")
    ]
    assert [module.seen_arguments for module in loaded] == [["net.py"]]


def test_two_files_of_one_name_do_not_mix(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "sibling.py").write_text("")
    (folder / "other" / "net.py").write_text(NET.replace("from sibling import WIDTH", "WIDTH = 6"))
    assert resolve("net.py:work").batch().shape == (3, 4)
    assert resolve("other/net.py:work").batch().shape == (3, 6)
    assert resolve("net.py:work").batch().shape == (3, 4)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nett.py:work", ["no file nett.py", "did you mean net.py?"]),
        ("no/such/net.py:work", ["no file no/such/net.py", "no folder no/such"]),
        (".:work", [". is a folder"]),
        ("net.py", ["net.py needs a name: write net.py:work", "work, make(), nothing(), fails(), misuses()"]),
        ("net.py:", ["net.py needs a name"]),
        ("nett.py", ["no file nett.py"]),
        ("net.py:wrok", ["no 'wrok'", "did you mean work", "fails, make, misuses, needs, nothing, work"]),
        ("net.py:net", ["is a torch.nn.Module (Linear), not an enxuto.Workload", "enxuto.Workload(model="]),
        ("net.py:Net", ["is the torch.nn.Module class Net"]),
        ("net.py:number", ["is a value of type int"]),
        ("net.py:nothing", ["net.py:nothing() returned None"]),
        ("net.py:needs", ["must be a function without arguments", "'width'"]),
        ("net.py:misuses", ["net.py:misuses: Workload(batch=...) takes a function"]),
        ("net.py:work?batch=3", ["a Workload takes --batch"]),
        ("nett:work", ["no module nett"]),
        ("os.nosuch:work", ["no module os.nosuch"]),
        ("os.path:join", ["must be a function without arguments"]),
    ],
)
def test_what_is_not_there_or_no_workload(folder: Path, target: str, words: list[str]) -> None:
    message = refusal(target)
    assert [word for word in words if word not in message] == []


def test_a_bare_file_is_not_run(folder: Path) -> None:
    (folder / "loud.py").write_text("raise SystemExit\nwork = make()\n")
    assert "needs a name" in refusal("loud.py")
    (folder / "broken.py").write_text("def (")
    assert "needs a name: write broken.py:NAME" in refusal("broken.py")


@pytest.mark.parametrize(
    ("source", "reason", "cause"),
    [
        ("raise ValueError('boom')", "ValueError: boom", ValueError),
        ("import nosuchthing", "ModuleNotFoundError", ModuleNotFoundError),
        ("def (", "SyntaxError", SyntaxError),
        ("raise SystemExit(3)", "ended the program (exit 3) while it was loaded; keep the run", SystemExit),
        ("assert False", "raised AssertionError", AssertionError),
    ],
)
@pytest.mark.parametrize("place", ["bad.py", "bad"])
def test_a_file_that_raises(
    folder: Path, place: str, source: str, reason: str, cause: type[BaseException]
) -> None:
    (folder / "bad.py").write_text(source)
    with pytest.raises(UserCodeError) as caught:
        resolve(f"{place}:work")
    assert reason in str(caught.value)
    assert str(caught.value).startswith(place)
    assert isinstance(caught.value.__cause__, cause)
    assert not [name for name in sys.modules if name.startswith("_enxuto_target") and name.endswith("_bad")]


def test_a_function_that_raises(folder: Path) -> None:
    with pytest.raises(UserCodeError, match=r"net\.py:fails raised KeyError: 'their own'") as caught:
        resolve("net.py:fails")
    assert isinstance(caught.value.__cause__, KeyError)
