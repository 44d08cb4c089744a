"""The order of the direct kernel's loads and stores: what is loaded before which result.

Engines and rings work in program order, so this says how far loads run ahead of the matmuls.
"""

from __future__ import annotations

from nkiconv.kernels._direct_plan import Block, ChannelTile, DirectPlan, Step

BEFORE_VECTORS = 10  # loads that scale and bias let pass: a tile ends long after it begins


def stores_of(step: Step, plan: DirectPlan) -> list[tuple[Block, tuple[ChannelTile, ...]]]:
    """Return what each store of a step writes: a block, of some tiles of output channels."""
    section = plan.sections[step.section]
    c_outs = plan.c_out_blocks[step.block]
    rounds = []
    if plan.interleaved_y:
        rounds.append(c_outs)
    else:
        for c_out in c_outs:
            rounds.append((c_out,))
    found = []
    if plan.channels_first:
        for together in rounds:
            for block in section.blocks:
                found.append((block, together))
    else:
        for block in section.blocks:
            for together in rounds:
                found.append((block, together))
    return found


def loads_in_order(plan: DirectPlan) -> list[tuple[int, int]]:
    """Return the loads of all steps, with one more place for what a step does after its last."""
    found = []
    for at in range(plan.geometry.G * len(plan.steps)):
        for i in range(len(plan.steps[at % len(plan.steps)].loads) + 1):
            found.append((at, i))
    return found


def ends_of_steps(plan: DirectPlan) -> list[int]:
    """Return where in `loads_in_order` each step ends."""
    ends = []
    end = 0
    for at in range(plan.geometry.G * len(plan.steps)):
        end = end + len(plan.steps[at % len(plan.steps)].loads) + 1
        ends.append(end)
    return ends


def loads_before(
    ends: list[int], at: int, block: Block, i: int, num_stores: int, has_residual: bool,
    plan: DirectPlan,
) -> int:  # fmt: skip
    """Return how many places of `loads_in_order` come before store `i` of a step.

    All of the next step; but a residual, which results wait for, is not to queue behind so much.
    """
    behind = ends[min(at + 1, len(ends) - 1)]
    if not has_residual:
        return behind
    first = ends[at]
    least = first
    if at == 0:
        step = plan.steps[0]
        first = _needed(step, plan.sections[step.section].blocks[0], plan)
        least = _needed(step, block, plan)
    return min(behind, max(least, first + (behind - first) * 2 * (i + 1) // num_stores))


def _needed(step: Step, block: Block, plan: DirectPlan) -> int:
    """Return how many loads of a step a block waits for: all, or up to its last row."""
    if not plan.trimmed or len(plan.packs) > 0:
        return len(step.loads) + 1
    rows = plan.geometry.rows
    section = plan.sections[step.section]
    end = section.rows.place(rows, block.rows.start + block.rows.size - 1, rows.taps - 1)
    needed = min(BEFORE_VECTORS + 1, len(step.loads))
    for i in range(len(step.loads)):
        load = step.loads[i]
        if not load.is_x or section.runs[load.part.start].place <= end:
            needed = max(needed, i + 1)
    return needed
