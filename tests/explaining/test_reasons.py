"""Why a block is alive: each kind of reason once, in its exact words."""

from __future__ import annotations

import pytest

from enxuto.explaining.reasons import reasons
from enxuto.explaining.standing import stand
from enxuto.records import Category, Phase
from tests.explaining.timelines import Script

FORWARD, BACKWARD, OPTIMIZER = Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER
PEAK = 10


class Step(Script):
    """Twenty ticks with the peak at tick 10, in the backward unless told otherwise: a large block of then."""

    def __init__(self, phase: Phase = BACKWARD) -> None:
        super().__init__(ticks=20, spans=((FORWARD, 0, 8), (phase, 8, 15), (OPTIMIZER, 15, 20)))
        self.block(10**6, Category.OTHER, PEAK, PEAK + 1)

    def why(self, block: int) -> str:
        standing = stand(self.timeline())
        assert standing.tick == PEAK
        return reasons(standing)[standing.blocks.tolist().index(block)]


@pytest.fixture
def step() -> Step:
    return Step()


@pytest.mark.parametrize(
    ("category", "text"),
    [
        (Category.PARAMETER, "always"),
        (Category.BUFFER, "always"),
        (Category.OPTIMIZER_STATE, "kept between steps"),
        (Category.INPUT, "an input of the step"),
    ],
)
def test_what_is_there_for_the_whole_step(step: Step, category: Category, text: str) -> None:
    assert step.why(step.block(1, category, 0, 20)) == text


def test_a_saved_activation_waits_is_used_or_is_never_asked_for(step: Step) -> None:
    waits, used, over, unasked, both = (step.block(1, Category.SAVED_ACTIVATION, 1, 3) for _ in range(5))
    step.save(waits, 2, 15, node="ConvolutionBackward0", uses=[(12, 14)])
    step.save(used, 2, 15, node="ConvolutionBackward0", uses=[(9, 12)])
    step.save(over, 2, 15, node="ConvolutionBackward0", uses=[(8, 10)])
    step.save(unasked, 2, 15)
    step.save(both, 2, 15, node="ReluBackward0", uses=[(10, 11)])
    step.save(both, 3, 15, node="MulBackward0", uses=[(12, 13)])
    step.save(both, 3, 15, node="AddmmBackward0", uses=[(13, 14)])
    step.save(both, 3, 9, node="LeftOutBackward0", uses=[(8, 9)])
    assert step.why(waits) == "saved by ConvolutionBackward0 for its backward, still to come"
    assert step.why(used) == "saved by ConvolutionBackward0, in use now"
    assert step.why(over) == "saved by ConvolutionBackward0, used and not yet released"
    assert (
        step.why(unasked) == "saved by an autograd node for a backward that does not ask for it in this step"
    )
    assert step.why(both) == (
        "saved by ReluBackward0, in use now; "
        "saved by AddmmBackward0 and MulBackward0 for their backward, still to come"
    )


def test_a_saved_activation_of_a_step_without_a_backward() -> None:
    step = Step(FORWARD)
    block = step.block(1, Category.SAVED_ACTIVATION, 1, 3)
    step.save(block, 2, 15)
    assert step.why(block) == "saved by the autograd graph for a backward that does not come in this step"


def test_a_saved_activation_outlives_its_release_while_a_node_uses_it(step: Step) -> None:
    block = step.block(1, Category.SAVED_ACTIVATION, 1, 3)
    step.save(block, 2, 9, node="ViewBackward0", uses=[(8, 12)])
    assert step.why(block) == "saved by ViewBackward0, in use now"


def test_a_save_released_at_the_peak_holds_no_longer(step: Step) -> None:
    block = step.block(1, Category.SAVED_ACTIVATION, 1, 20)
    step.save(block, 2, PEAK, node="ViewBackward0", uses=[(8, 9)])
    assert step.why(block).startswith("not read again: ")


def test_a_real_tensor_is_in_use_when_the_op_at_the_peak_reads_it(step: Step) -> None:
    block = step.block(1, Category.SAVED_ACTIVATION, 1, 3)
    step.save(block, 2, 15, node="MmBackward0", uses=[(9, 9)])
    step.op("aten.mm", PEAK, reads=[block], node="MmBackward0")
    assert step.why(block) == "saved by MmBackward0, in use now"


def test_a_temporary_that_is_read_again(step: Step) -> None:
    block = step.block(1, Category.TEMPORARY_FORWARD, 4, 16)
    step.op("aten.view", 11, reads=[block], line=4, view=True)
    step.op("aten.mul", 13, reads=[block], line=31)
    step.op("aten.add", 14, reads=[block], line=32)
    assert step.why(block) == "read again by aten.mul (m.py:31)"


def test_a_read_outside_a_blocks_life_does_not_count(step: Step) -> None:
    block = step.block(1, Category.TEMPORARY_FORWARD, 4, 12)
    step.op("aten.mul", 9, reads=[block], line=30)
    step.op("aten.mul", 13, reads=[block], line=31)
    assert step.why(block) == (
        "not read again: a Python variable or the autograd graph keeps it until tick 12 (backward), "
        "after aten.mul (m.py:30)"
    )


def test_an_argument_of_a_module_that_has_not_returned(step: Step) -> None:
    block, of_root = (step.block(1, Category.TEMPORARY_FORWARD, 4, 16) for _ in range(2))
    step.call("", 1, 18, [of_root])
    step.call("layer1", 5, 14, [block])
    step.call("layer1.conv", 6, 12, [block, of_root])
    step.call("layer1.done", 6, 8, [block])
    assert step.why(block) == "argument of layer1, which has not returned"
    assert step.why(of_root) == "argument of the model, which has not returned"


def test_the_output_and_the_last_read_of_the_op_at_the_peak(step: Step) -> None:
    read = step.block(1, Category.TEMPORARY_BACKWARD, 4, 11)
    op = step.op("aten.mm", PEAK, reads=[read])
    output = step.block(1, Category.TEMPORARY_BACKWARD, PEAK, 16, op=op)
    step.op("aten.add", 12, reads=[output])
    assert step.why(output) == "output of the op at the peak"
    assert step.why(read) == "read by the op at the peak for the last time"


def test_what_nothing_reads_again_until_the_end_of_the_step(step: Step) -> None:
    block = step.block(1, Category.OTHER, 4, 20)
    assert step.why(block) == (
        "not read again: a Python variable or the autograd graph keeps it until the end of the step"
    )


HELD = "local variable `h` of forward() at m.py:41"


def test_a_temporary_names_the_python_variable_that_holds_it(step: Step) -> None:
    idle, needed, last = (step.block(1, Category.TEMPORARY_FORWARD, 4, 16) for _ in range(3))
    for block in (idle, needed, last):
        step.hold(block, PEAK, HELD)
    step.op("aten.mm", PEAK, reads=[last])
    step.op("aten.mul", 13, reads=[needed], line=31)
    assert (
        step.why(idle)
        == f"not read again: {HELD} keeps it until tick 16 (optimizer), after aten.mul (m.py:31)"
    )
    assert step.why(needed) == f"read again by aten.mul (m.py:31); held by {HELD}"
    assert step.why(last) == f"read by the op at the peak for the last time; held by {HELD}"


def test_what_held_a_block_at_another_tick_is_not_said(step: Step) -> None:
    block = step.block(1, Category.OTHER, 4, 20)
    step.hold(block, PEAK - 1, HELD)
    assert step.why(block).startswith("not read again: a Python variable or the autograd graph keeps it")


def test_scratch_is_the_workspace_of_its_op(step: Step) -> None:
    op = step.op("aten.convolution", PEAK)
    assert step.why(step.block(1, Category.SCRATCH, PEAK, PEAK + 1, op=op)) == "workspace of aten.convolution"


def test_a_gradient_is_accumulated_then_waits_for_the_optimizer(step: Step) -> None:
    partial, complete, left = (step.block(1, Category.GRADIENT, 8, 20) for _ in range(3))
    step.accumulate(9, partial)
    step.accumulate(12, partial)
    step.accumulate(9, complete)
    step.op("aten._foreach_mul", 16, reads=[partial, complete], phase=OPTIMIZER)
    assert step.why(partial) == "being accumulated"
    assert step.why(complete) == "waits for the optimizer step"
    assert step.why(left) == "not read again: a gradient stays until the end of the step"


def test_a_gradient_in_the_optimizer_step() -> None:
    step = Step(OPTIMIZER)
    now, used, left = (step.block(1, Category.GRADIENT, 8, 20) for _ in range(3))
    step.op("aten.addcdiv_", 9, reads=[used], phase=OPTIMIZER)
    step.op("aten._foreach_add_", PEAK, reads=[now], phase=OPTIMIZER)
    assert step.why(now) == "in use now by the optimizer step"
    assert step.why(used) == "used by the optimizer step, kept until the end of the step"
    assert step.why(left) == "not read again: a gradient stays until the end of the step"


def test_a_gradient_that_is_clipped_before_the_optimizer_step(step: Step) -> None:
    gradient = step.block(1, Category.GRADIENT, 8, 20)
    step.op("aten._foreach_norm", 13, reads=[gradient], line=5)
    assert step.why(gradient) == "read again by aten._foreach_norm (m.py:5)"
