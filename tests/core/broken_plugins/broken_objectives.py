"""A sound objective, and others with one defect each."""

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.method.objective import Objective, StepResult


@dataclass
class Held:
    latents: Tensor
    conditioning: Any
    timestep: float


class Quiet(Objective):
    """Small predictions at pure noise, weighted by a running mean of the losses: its state."""

    name = "quiet"
    updates = 2

    def __init__(self):
        self.mean = 1.0
        self.last = 1.0

    @property
    def needs(self):
        return frozenset({"scores"})

    def check(self, model, geometry):
        if model.num_steps == 1:
            raise VaderError("--num-steps 1: use 2 or more")

    @torch.no_grad()
    def prepare(self, model, batches, processes):
        return [self.held(model, batch) for batch in batches]

    def held(self, model, batch):
        conditioning = model.condition(batch.prompts, batch.geometry, batch.rng)
        noise = model.backbone.initial_noise(len(batch), batch.geometry, batch.rng)
        return Held(noise, conditioning, model.plan(batch.geometry).timesteps[0])

    def predicted(self, model, held):
        return model.predict(held.latents, held.timestep, held.conditioning).value

    def loss(self, model, held, update):
        return self.predicted(model, held).float().square().mean() * self.mean

    def step(self, model, prepared, backward, update):
        loss = self.loss(model, prepared, update)
        backward(loss)
        self.last = float(loss.detach())
        return StepResult(loss.detach(), figures={"mean": torch.tensor(self.mean)})

    def after_update(self, model, step):
        self.mean = 0.5 * self.mean + 0.5 * self.last

    def save(self, folder):
        (folder / "mean.json").write_text(json.dumps([self.mean, self.last]))

    def load(self, folder):
        self.mean, self.last = json.loads((folder / "mean.json").read_text())


class Wanting(Quiet):
    @property
    def needs(self):
        return frozenset({"scores", "gold"})


class Idle(Quiet):
    updates = 0


class Misled(Quiet):
    @property
    def batch_kind(self):
        return "videos"


class Hasty(Quiet):
    def check(self, model, geometry):
        if not hasattr(model.backbone, "denoiser"):
            model.backbone.load()


class Clumsy(Quiet):
    def check(self, model, geometry):
        if model.num_steps == 1:
            raise IndexError(1)


class Presuming(Quiet):
    def defaults(self, backbone, num_steps):
        return {"warmth": 3}


class Short(Quiet):
    def prepare(self, model, batches, processes):
        return super().prepare(model, batches, processes)[:1]


class Graphful(Quiet):
    def prepare(self, model, batches, processes):
        held = [self.held(model, batch) for batch in batches]
        return [{"held": one, "first": self.predicted(model, one)} for one in held]

    def loss(self, model, held, update):
        return super().loss(model, held["held"], update)


class Untuned(Quiet):
    """The base model's prediction: nothing that learns has a part in it."""

    def loss(self, model, held, update):
        with model.base():
            away = self.predicted(model, held)
        return away.square().mean() + 0 * super().loss(model, held, update)


class Thawing(Quiet):
    def loss(self, model, held, update):
        next(model.backbone.denoiser.parameters()).requires_grad_(True)
        return super().loss(model, held, update)


class Moving(Quiet):
    """Takes the optimizer's work upon itself."""

    def step(self, model, prepared, backward, update):
        result = super().step(model, prepared, backward, update)
        with torch.no_grad():
            for parameter in model.tuning.parameters().values():
                parameter.sub_(0.01 * parameter.grad)
        return result


class Direct(Quiet):
    """Half of its loss does not go through ``backward``."""

    def step(self, model, prepared, backward, update):
        loss = self.loss(model, prepared, update) / 2
        loss.backward(retain_graph=True)
        backward(loss)
        self.last = float(loss.detach())
        return StepResult(loss.detach())


class Clipping(Quiet):
    def step(self, model, prepared, backward, update):
        result = super().step(model, prepared, backward, update)
        torch.nn.utils.clip_grad_norm_(list(model.tuning.parameters().values()), 1e-3)
        return result


class Enclosed(Quiet):
    def step(self, model, prepared, backward, update):
        with model.autocast():
            return super().step(model, prepared, backward, update)


class Misreporting(Quiet):
    """A loss for each sample, where one is asked for."""

    def step(self, model, prepared, backward, update):
        result = super().step(model, prepared, backward, update)
        return replace(result, loss=result.loss.expand(4))


class Attached(Quiet):
    def step(self, model, prepared, backward, update):
        loss = self.loss(model, prepared, update)
        backward(loss)
        self.last = float(loss.detach())
        return StepResult(loss)


class Flat(Quiet):
    """One score for the whole batch."""

    def step(self, model, prepared, backward, update):
        return replace(super().step(model, prepared, backward, update), scores={"all": torch.zeros(1)})


class Chancy(Quiet):
    def loss(self, model, held, update):
        return super().loss(model, held, update) * (1 + torch.rand(()))


class Seeding(Quiet):
    def loss(self, model, held, update):
        torch.manual_seed(0)
        return super().loss(model, held, update)


class Resting(Quiet):
    """Its second update is nothing but noise for the optimizer."""

    def loss(self, model, held, update):
        return super().loss(model, held, update) * (update == 0)


class Following(Quiet):
    def after_update(self, model, step):
        super().after_update(model, step)
        with torch.no_grad():
            for parameter in model.tuning.parameters().values():
                parameter.mul_(0.5)


class Forgetful(Quiet):
    def save(self, folder):
        pass

    def load(self, folder):
        pass


class Careless(Forgetful):
    """Has no state, but reads a file that it never wrote."""

    def after_update(self, model, step):
        pass

    def load(self, folder):
        (folder / "mean.json").read_text()


class Lingering(Quiet):
    def step(self, model, prepared, backward, update):
        result = super().step(model, prepared, backward, update)
        model.tuning.set_strength(0.5)
        return result


class Waking(Quiet):
    def loss(self, model, held, update):
        model.backbone.denoiser.train()
        return super().loss(model, held, update)


class Endless(Quiet):
    """Divides by a deviation that is zero."""

    def loss(self, model, held, update):
        loss = super().loss(model, held, update)
        return loss / (loss - loss).abs()
