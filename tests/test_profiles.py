"""Every shipped profile: complete, valid, consistent with itself, and solvable within its hardware."""

import importlib
from pathlib import Path

import pytest

from pipeline_math.acceptance import reachable
from pipeline_math.goal import Solution, memory_fits
from pipeline_math.model_flops_vram import shape_of_depth
from pipeline_math.plan import make_plan
from tasks import architecture, budget
from tasks._params import StageParams, read_section, read_yaml, validate
from tasks.stages import Stage

ROOT = Path(__file__).resolve().parents[1]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
PACKAGES = frozenset({Stage.CORPUS, Stage.TOKENIZER, Stage.SHARDS, Stage.EVALUATION, Stage.CHAT})
EXPECTED = {"laptop", "pulse", "rtx4090-24h", "h100-1x", "h100x8"}


def load(profile: Path) -> dict[Stage, StageParams]:
    """The validated parameters of every stage."""
    sections = {}
    for stage in Stage:
        module = importlib.import_module(f"tasks.{stage}.stage" if stage in PACKAGES else f"tasks.{stage}")
        sections[stage] = validate(module.Params, read_section(profile, stage), f"{profile}: {stage}")
    return sections


def solved(sections) -> Solution:
    return budget.solve_for(sections[Stage.BUDGET])


@pytest.fixture(scope="module", params=PROFILES, ids=lambda path: path.stem)
def sections(request):
    return load(request.param)


def test_all_expected_profiles_exist():
    assert {path.stem for path in PROFILES} >= EXPECTED


def test_the_installed_parameters_are_the_laptop_profile():
    """`make run` on a fresh clone must be the ten-minute run that the README promises."""
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "profiles" / "laptop.yaml").read_bytes()


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_field_of_every_stage_is_spelt_out(profile):
    """A profile is complete: a new parameter must be added to all of them, so that a reader sees every choice."""
    content = read_yaml(profile)
    assert list(content) == [str(stage) for stage in Stage]
    for stage, params in load(profile).items():
        missing = set(type(params).model_fields) - set(content[stage])
        assert not missing, f"{profile.name}: {stage} lacks {sorted(missing)}"


def test_the_plan_fits_the_memory_and_the_hours(sections):
    found, params = solved(sections), sections[Stage.BUDGET]
    assert memory_fits(found)
    seconds = make_plan(found, budget.workload_of(params))["forecast"]["total"]["seconds"]
    assert seconds <= params.hours * 3600 * 1.001
    assert seconds >= params.hours * 3600 * 0.5  # catches a workload of another machine


def test_nothing_asked_for_is_expected_to_be_missed(sections):
    """Catches acceptance that the profile's own hours cannot reach."""
    params = sections[Stage.BUDGET]
    forecast = make_plan(solved(sections), budget.workload_of(params))["forecast"]
    assert [reachable(threshold.threshold(), forecast) for threshold in params.acceptance] == [None] * len(
        params.acceptance
    )


def test_rows_and_vocabulary_agree_between_stages(sections):
    plan = sections[Stage.BUDGET]
    assert sections[Stage.TOKENIZER].vocab_size == plan.vocab_size
    assert sections[Stage.SHARDS].tokens_per_row == plan.tokens_per_row
    shape = architecture.choose_shape(sections[Stage.ARCHITECTURE], as_plan(sections), plan.vocab_size)
    assert shape.tokens_per_row == plan.tokens_per_row
    inference = sections[Stage.INFERENCE]
    assert inference.prompt_tokens + inference.new_tokens <= plan.tokens_per_row


def as_plan(sections):
    params = sections[Stage.BUDGET]
    return make_plan(solved(sections), budget.workload_of(params))["decisions"]


def test_micro_batches_fit_and_divide_the_batch(sections):
    """Catches a chat stage whose micro-batch is larger than what pretraining found to fit."""
    found, plan = solved(sections), sections[Stage.BUDGET]
    for stage in (Stage.PRETRAIN, Stage.MIDTRAIN, Stage.SFT):
        training = sections[stage]
        batch = training.batch_tokens or found.batch_tokens
        rows = training.micro_batch_rows or found.micro_batch_rows
        assert batch % (plan.tokens_per_row * plan.devices) == 0, stage
        assert (batch // (plan.tokens_per_row * plan.devices)) % rows == 0, stage
        assert rows <= found.micro_batch_rows_limit, stage
        if stage != Stage.PRETRAIN and plan.workload.chat_micro_batch_rows is not None:
            assert plan.workload.chat_micro_batch_rows == rows, stage


def test_the_workload_repeats_what_the_sections_say(sections):
    """The budget sees only its own section; this keeps its copy of the amounts true, within 2 %."""
    params, found = sections[Stage.BUDGET], solved(sections)
    work, midtrain, sft, rl = params.workload, *(sections[s] for s in (Stage.MIDTRAIN, Stage.SFT, Stage.RL))
    midtrain_tokens = midtrain.mixture.conversation_tokens / (1 - midtrain.pretraining_share) * midtrain.epochs
    sft_tokens = sft.mixture.conversation_tokens * sft.epochs
    for wanted, stage, tokens in (
        (work.midtrain_tokens, midtrain, midtrain_tokens),
        (work.sft_tokens, sft, sft_tokens),
    ):
        batch = stage.batch_tokens or found.batch_tokens
        assert work.chat_batch_tokens == batch
        assert wanted == pytest.approx(stage.steps * batch if stage.steps else tokens, rel=0.02)
    assert work.rl_steps == rl.steps
    assert work.rl_samples_per_step == rl.prompts_per_step * rl.samples_per_prompt
    assert work.rl_new_tokens == rl.max_reply_tokens
    assert work.rl_micro_batch_rows == rl.micro_batch_rows
    pretrain, evaluation = sections[Stage.PRETRAIN], sections[Stage.EVALUATION]
    assert work.evaluation_tokens == pytest.approx(pretrain.eval_rows * params.tokens_per_row, rel=0.02)
    evaluations = -(-found.steps // pretrain.eval_every) if pretrain.eval_every else 1
    assert work.evaluations == pytest.approx(evaluations, abs=1)
    assert work.checkpoints == len(evaluation.checkpoints)
    sources = sections[Stage.CORPUS].sources
    assert work.documentation_sources == sum(source.kind == "python_docs" for source in sources)
    inference = sections[Stage.INFERENCE]
    assert work.champion_comparisons == (sections[Stage.GATE].max_regression is not None)
    assert work.inference_prompt_tokens == inference.prompt_tokens
    steps = (inference.repeats + 1) * len(inference.batches) * (inference.new_tokens - 1)
    assert work.inference_decode_steps == pytest.approx(steps, rel=0.1)
    assert work.inference_rows == pytest.approx(sum(inference.batches) / len(inference.batches), rel=0.1)
    assert work.tokenizer_bytes == pytest.approx(sections[Stage.TOKENIZER].max_characters, rel=0.02)


def test_the_default_layout_is_followed(sections):
    """Explicit shapes are for the pulse; a profile that names hours lets the plan decide."""
    found, chosen = solved(sections), sections[Stage.ARCHITECTURE]
    if chosen.d_model is None and chosen.depth is None:
        plan = sections[Stage.BUDGET]
        if plan.d_model is None:
            assert found.shape == shape_of_depth(found.shape.n_layers, plan.vocab_size, plan.tokens_per_row)
    else:
        small = architecture.choose_shape(chosen, as_plan(sections), sections[Stage.BUDGET].vocab_size)
        assert small.d_model <= found.shape.d_model  # never larger than what the plan found to fit
