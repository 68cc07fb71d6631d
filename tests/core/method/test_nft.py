"""DiffusionNFT: the loss equals its formula, groups are whole, the old policy follows and is resumed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from reference_loop import batch_of, forget, gradients
from reference_loop import make as make_parts

from vader_core.errors import VaderError
from vader_core.method.guidance import Guidance
from vader_core.method.mixture import Mixture, Term
from vader_core.method.nft import NFT, clean_from
from vader_core.method.objective import Batch
from vader_core.method.options import NFTOptions
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import FramesNeeded, Reward, RewardOutput
from vader_core.schedule import RectifiedFlow, VarianceExploding, VariancePreserving
from vader_core.testing import objective_clauses, objective_subject
from vader_core.training.processes import SingleProcess

SAMPLERS = {"flow": "rectified_flow", "epsilon": "ddim", "v": "ddim", "exploding": "euler"}
CPU = torch.device("cpu")


class Counted(Reward):
    """Brightness in whole steps: no gradient leads through it."""

    differentiable = False

    @property
    def frames(self):
        return FramesNeeded("clip")

    def __call__(self, video, prompts, rng):
        assert not torch.is_grad_enabled(), "a black box was asked with a graph"
        score = (10000 * video.flatten(1).mean(dim=1)).round() / 10000
        return RewardOutput(loss=-score, score=score)


def make(registry, schedule="flow"):
    return make_parts(registry, "tiny", {"schedule": schedule}, sampler=SAMPLERS[schedule])


def nft(parts, **options):
    objective = NFT(NFTOptions(**options))
    objective.use(parts.rewards)
    return objective


def move(parts, seed=4, by=0.05):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in parts.model.tuning.parameters().values():
            value.add_(by * torch.randn(value.shape, generator=generator, dtype=value.dtype))


def clean_by_hand(schedule, noised, prediction, timestep):
    """x_0 from x_t and the prediction, from each parametrisation's own equation."""
    t = timestep.view(-1, 1, 1, 1, 1)
    if isinstance(schedule, RectifiedFlow):
        return noised - t / schedule.num_train_timesteps * schedule.velocity_sign * prediction
    if isinstance(schedule, VariancePreserving):
        signal = schedule.alphas_cumprod[t.long()]
        if schedule.prediction_type == "epsilon":
            return (noised - (1 - signal).sqrt() * prediction) / signal.sqrt()
        return signal.sqrt() * noised - (1 - signal).sqrt() * prediction
    sigma = torch.exp(4 * t)  # the model predicts v
    return (noised - sigma * prediction) / (1 + sigma**2).sqrt()


def by_hand(parts, old, *, group, beta, clip, levels, noisiest, pull, awm=None):
    """The whole update, written from the paper; leaves the gradient, returns the loss and the rewards."""
    model, backbone, geometry = parts.model, parts.backbone, parts.geometry
    prompts, schedule = batch_of(parts).prompts, parts.backbone.schedule
    trained = model.tuning.snapshot()
    unguided = replace(model, guidance=Guidance(1.0), _plans={})
    made = []
    for clip_index in range(group):
        rng = Randomness(7, 0, 0, tuple(index * group + clip_index for index in (0, 1)))
        with torch.no_grad(), model.tuning.using(old):
            conditioning = model.condition(prompts, geometry, rng)
            clean = unguided.rollout(conditioning, geometry, rng).latents
            video = backbone.decode(clean, geometry, None)
            frames = parts.rewards.choose_frames("all", geometry.num_frames, rng)
            reward = -parts.rewards(video, frames, prompts, rng).loss
        made.append((rng, conditioning, clean, reward))
    rewards = torch.stack([one[3] for one in made])  # [group, prompts]
    advantages = (rewards - rewards.mean(0)) / (((rewards - rewards.mean(0)) ** 2).mean(0).sqrt() + 1e-4)
    shares = (advantages / (2 * clip) + 0.5).clamp(0, 1)
    total = 0.0
    for made_index, ((rng, conditioning, clean, _), share) in enumerate(zip(made, shares, strict=True)):
        for level in range(levels):
            own = rng.within("noise level", level)
            t = schedule.training_timesteps(1 - noisiest + noisiest * own.uniform("timestep"))
            noise = own.normal("noise", clean.shape[1:], dtype=clean.dtype)
            noised = schedule.add_noise(clean, noise, t)
            told = (noised, t.double(), conditioning.conditional_branch)
            with torch.no_grad():
                with model.tuning.using(old):
                    before = backbone.predict(*told).value
                with model.tuning.off():
                    base = backbone.predict(*told).value
            for name, value in model.tuning.parameters().items():
                assert torch.equal(value, trained[name])
            now = backbone.predict(*told).value
            plus = clean_by_hand(schedule, noised, beta * now + (1 - beta) * before, t)
            minus = clean_by_hand(schedule, noised, (1 + beta) * before - beta * now, t)
            terms = []
            for found in (plus, minus):
                weight = (found - clean).abs().mean(dim=(1, 2, 3, 4)).detach().clamp(min=1e-5)
                terms.append(((found - clean) ** 2).mean(dim=(1, 2, 3, 4)) / weight)
            both = clip / beta * (share * terms[0] + (1 - share) * terms[1])
            if awm is not None:
                target = schedule.target(clean, noise, t)
                both = advantages[made_index].clamp(-clip, clip) * ((now - target) ** 2).mean(
                    dim=(1, 2, 3, 4)
                )
                both = both + awm * ((now - before) ** 2).mean(dim=(1, 2, 3, 4))
            distance = ((now - base) ** 2).mean(dim=(1, 2, 3, 4))
            part = (both + pull * distance).mean() / (group * levels)
            part.backward()  # here, because `using` writes into what a graph holds
            total += float(part.detach())
    return total, rewards


@pytest.mark.parametrize("schedule", SAMPLERS)
@pytest.mark.parametrize(("beta", "pull"), [(1.0, 1e-4), (0.1, 0.3)])
def test_loss_and_gradient_equal_the_formula(registry, schedule, beta, pull):
    parts = make(registry, schedule)
    options = {"group": 3, "beta": beta, "clip": 1.0, "timesteps": 2, "noisiest": 0.4, "base_weight": pull}
    objective = nft(parts, **options)
    old = parts.model.tuning.snapshot()
    objective._old = {name: value.clone() for name, value in old.items()}
    move(parts)  # the current policy has left the old one
    forget(parts)
    (prepared,) = objective.prepare(parts.model, [batch_of(parts)], SingleProcess(CPU))
    result = objective.step(parts.model, prepared, torch.Tensor.backward, 0)
    found = gradients(parts)
    forget(parts)
    loss, rewards = by_hand(parts, old, group=3, beta=beta, clip=1.0, levels=2, noisiest=0.4, pull=pull)
    wanted = gradients(parts)
    for name, gradient in wanted.items():
        assert gradient.any()
        assert (found[name] - gradient).abs().max() <= 1e-10 * gradient.abs().max().clamp(min=1.0)
    assert float(result.loss) == pytest.approx(loss, rel=1e-10)
    assert result.reward_queries == 6
    assert objective.queries == 3
    assert float(rewards.std(dim=0).min()) > 0


@pytest.mark.parametrize("schedule", ["flow", "v"])
def test_awm_equals_the_formula(registry, schedule):
    parts = make(registry, schedule)
    options = {"group": 3, "clip": 0.9, "noisiest": 1.0, "base_weight": 0.1, "old_weight": 0.2}
    objective = nft(parts, loss="awm", decay=0.0, **options)
    objective.check(parts.model, parts.geometry)
    old = parts.model.tuning.snapshot()
    objective._old = {name: value.clone() for name, value in old.items()}
    move(parts)
    forget(parts)
    (prepared,) = objective.prepare(parts.model, [batch_of(parts)], SingleProcess(CPU))
    result = objective.step(parts.model, prepared, torch.Tensor.backward, 0)
    found = gradients(parts)
    forget(parts)
    loss, _ = by_hand(parts, old, group=3, beta=1.0, clip=0.9, levels=2, noisiest=1.0, pull=0.1, awm=0.2)
    assert float(result.loss) == pytest.approx(loss, rel=1e-10)
    for name, gradient in gradients(parts).items():
        assert (found[name] - gradient).abs().max() <= 1e-10 * gradient.abs().max().clamp(min=1.0)


def test_beta_is_refused_where_it_has_no_effect(registry):
    parts = make(registry)
    with pytest.raises(VaderError, match=r"beta belongs to loss=nft"):
        nft(parts, loss="awm", beta=0.5).check(parts.model, parts.geometry)


@pytest.mark.parametrize(
    "schedule",
    [
        RectifiedFlow(velocity_sign=-1),
        VariancePreserving(VariancePreserving.scaled_linear()),
        VariancePreserving(
            VariancePreserving.scaled_linear(), "v", scale=torch.linspace(1.0, 0.7, 1000, dtype=torch.float64)
        ),
        VarianceExploding(0.02, 80.0),
        VarianceExploding(0.02, 80.0, prediction_type="epsilon"),
    ],
)
def test_a_perfect_prediction_finds_the_clip_back(schedule):
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 3, 4, 2, 2, 2, generator=generator, dtype=torch.float64).unbind()
    t = schedule.training_timesteps(torch.tensor([0.1, 0.6, 0.95], dtype=torch.float64))
    found = clean_from(schedule, schedule.add_noise(clean, noise, t), schedule.target(clean, noise, t), t)
    assert (found - clean).abs().max() < 1e-10


# -- groups --------------------------------------------------------------------------------------------------


class Ranks(SingleProcess):
    """Several processes in one: what each told is heard by all."""

    def __init__(self, told):
        super().__init__(CPU)
        self.told = told

    def gather(self, value):
        return self.told


class Listening(SingleProcess):
    """Notes what is gathered."""

    def gather(self, value):
        self.heard = value
        return [value]


def test_a_group_split_over_processes_is_one_group(registry):
    """The same prompt twice in one process, and once in each of two: the same advantages, to the bit."""
    parts = make(registry)
    prompts, rng = [Prompt("a dog"), Prompt("a dog")], Randomness(7, 0, 0, (0, 1))
    (alone,) = nft(parts, group=3).prepare(
        parts.model, [Batch(prompts, parts.geometry, rng)], SingleProcess(CPU)
    )
    halves = [Batch(prompts[:1], parts.geometry, Randomness(7, 0, 0, (index,))) for index in (0, 1)]
    told = []
    for half in halves:
        listening = Listening(CPU)
        (own,) = nft(parts, group=3).prepare(parts.model, [half], listening)
        told.append(listening.heard)
        one_group = torch.cat(own.advantages)
        assert float(one_group.mean()) == pytest.approx(0.0, abs=1e-9)
    split = [nft(parts, group=3).prepare(parts.model, [half], Ranks(told))[0] for half in halves]
    for clip in range(3):
        both = torch.cat([one.advantages[clip] for one in split])
        torch.testing.assert_close(both, alone.advantages[clip], rtol=1e-9, atol=1e-9)
    assert float(torch.cat(split[0].advantages).mean().abs()) > 1e-6  # half a group has a mean of its own
    assert torch.equal(split[0].spreads, split[1].spreads)


def test_clips_of_one_worth_have_no_advantage(registry):
    class Same(Counted):
        def __call__(self, video, prompts, rng):
            return RewardOutput(loss=video.new_ones(len(video)), score=video.new_ones(len(video)))

    parts = make(registry)
    objective = nft(parts, group=2)
    objective.use(Mixture((Term("same", Same()),)))
    (prepared,) = objective.prepare(parts.model, [batch_of(parts)], SingleProcess(CPU))
    assert all(not one.any() for one in prepared.advantages)
    objective.step(parts.model, prepared, torch.Tensor.backward, 0)
    pull = gradients(parts)
    assert max(float(one.abs().max()) for one in pull.values()) < 1e-2  # of the base model alone


def test_clips_are_sampled_by_the_old_policy_without_guidance(registry):
    parts = make(registry)
    objective = nft(parts, group=2)
    old = objective._old_policy(parts.model)
    move(parts, by=0.3)
    (prepared,) = objective.prepare(parts.model, [batch_of(parts)], SingleProcess(CPU))
    clips = prepared.clips[0]
    plain = replace(parts.model, guidance=Guidance(1.0), _plans={})
    with torch.no_grad():
        new = plain.rollout(clips.conditioning, parts.geometry, clips.batch.rng).latents
        with parts.model.tuning.using(old):
            wanted = plain.rollout(clips.conditioning, parts.geometry, clips.batch.rng).latents
    assert torch.equal(clips.clean, wanted)
    assert not torch.allclose(clips.clean, new)


# -- the old policy ------------------------------------------------------------------------------------------


def test_the_old_policy_follows_by_decay(registry):
    parts = make(registry)
    objective = nft(parts, decay=0.5, decay_ramp=10)
    assert [objective.decay_at(step) for step in (0, 5, 10, 400)] == [0.0, 0.25, 0.5, 0.5]
    assert NFT(NFTOptions(decay=0.9, decay_ramp=0)).decay_at(0) == 0.9
    old = objective._old_policy(parts.model)
    before = {name: value.clone() for name, value in old.items()}
    move(parts)
    now = parts.model.tuning.snapshot()
    objective.after_update(parts.model, 5)
    for name, value in objective._old.items():
        torch.testing.assert_close(value, 0.25 * before[name] + 0.75 * now[name], rtol=1e-12, atol=1e-12)
    objective.after_update(parts.model, 0)
    assert all(torch.equal(value, now[name]) for name, value in objective._old.items())


def test_its_state_survives_to_the_bit(registry, tmp_path):
    parts = make(registry)
    objective = nft(parts)
    objective.save(tmp_path)
    assert not list(tmp_path.iterdir())  # before the first batch there is nothing
    objective._old_policy(parts.model)
    move(parts)
    objective.after_update(parts.model, 3)
    objective.save(tmp_path)
    other = nft(parts)
    other.load(tmp_path)
    assert other._old.keys() == objective._old.keys()
    assert all(torch.equal(value, objective._old[name]) for name, value in other._old.items())


def test_a_decay_that_stays_0_is_refused(registry):
    parts = make(registry)
    with pytest.raises(VaderError, match=r"objective.nft.decay=0: .* use more than 0"):
        nft(parts, decay=0.0).check(parts.model, parts.geometry)
    nft(parts, decay=0.1).check(parts.model, parts.geometry)


# -- as a whole ----------------------------------------------------------------------------------------------


def test_a_cap_is_refused_where_no_gradient_is_taken(vader, tmp_path, capsys):
    (tmp_path / "capped.yaml").write_text("reward:\n  - {name: brightness, cap: 0.9}\n")
    common = ("train", "--backbone", "tiny", "--prompts", "fixed", "--config", tmp_path / "capped.yaml")
    assert vader(*common, "--objective", "nft", "--dry-run") == 2
    said = capsys.readouterr().err
    assert "reward.brightness.cap stops the reward's gradient, and --objective nft takes none" in said
    assert vader(*common, "--dry-run") == 0


@pytest.mark.parametrize("clause", objective_clauses(), ids=str)
def test_conformance(clause):
    assert clause.require(objective_subject("nft", {"group": 2}))


def test_it_raises_a_black_box(registry):
    """Mean brightness, asked for its value alone, of clips from the same noise before and after."""
    parts = make_parts(registry, "tiny", {"schedule": "flow"}, dtype=torch.float32).with_model(num_steps=2)
    objective = nft(parts, group=6, timesteps=1, noisiest=1.0, decay_ramp=20, base_weight=0.0)
    objective.use(Mixture((Term("counted", Counted()),)))
    prompts = batch_of(parts).prompts

    def brightness():
        model, rng = replace(parts.model, guidance=Guidance(1.0)), Randomness(99, 0, 0, (0, 1))
        with torch.no_grad():
            clean = model.rollout(model.condition(prompts, parts.geometry, rng), parts.geometry, rng).latents
            return float(model.decode(clean, parts.geometry).mean())

    before = brightness()
    optimizer = torch.optim.AdamW(parts.model.tuning.parameters().values(), lr=0.02, weight_decay=0.0)
    for step in range(12):
        batch = Batch(prompts, parts.geometry, Randomness(7, step, 0, (2 * step, 2 * step + 1)))
        (prepared,) = objective.prepare(parts.model, [batch], SingleProcess(CPU))
        optimizer.zero_grad()
        objective.step(parts.model, prepared, torch.Tensor.backward, 0)
        optimizer.step()
        objective.after_update(parts.model, step)
    assert brightness() > before + 0.003


def test_a_run_resumes_bit_for_bit(vader, tmp_path):
    def losses(folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}

    given = ["train", "--backbone", "tiny", "--objective", "nft", "--reward", "motion", "--prompts", "fixed"]
    given += ["-o", "objective.nft.group=2", "-o", "objective.nft.decay_ramp=0", "--batch-size", "1"]
    given += ["--num-steps", "2", "-o", "validation.every=0", "--quiet"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert vader(*given, "--max-steps", 3, "--out", whole) == 0
    assert vader(*given, "--max-steps", 1, "--out", cut) == 0
    assert vader("train", "--resume", cut, "--allow-changes", "--max-steps", 3) == 0
    assert losses(whole) == losses(cut)
    assert len(losses(whole)) == 3


def test_the_plan_counts_whole_groups(vader, capsys, monkeypatch):
    monkeypatch.setattr(
        sys.modules["vader_core.api.plan"], "memory_facts", lambda *_, **__: {}
    )  # has its own tests
    given = ["train", "--backbone", "tiny", "--objective", "nft", "--reward", "motion", "--prompts", "fixed"]
    given += ["--batch-size", "2", "--max-steps", "5", "--dry-run", "--json"]
    assert vader(*given, "-o", "objective.nft.group=6") == 0
    assert json.loads(capsys.readouterr().out)["reward_queries"] == 60
