"""Registers components with one defect each; ``CASES`` says in which clauses the kit must find it."""

from dataclasses import dataclass
from importlib import import_module

from pydantic import BaseModel, ConfigDict, Field

from vader_core.hookspecs import hookimpl
from vader_core.testing.options import TinyConfig


class AnyOption(BaseModel):
    model_config = ConfigDict(extra="allow")

    shade: float = Field(0.5, description="the shade")


class Undescribed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shade: float = 0.5


class WrongDefault(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shade: float = Field(-1.0, ge=0, description="the shade")


@dataclass(frozen=True)
class Case:
    kind: str
    made: str
    defect: str
    clauses: tuple[str, ...]
    config: type[BaseModel] | None = None

    @property
    def name(self):
        return (
            f"{self.made}_{self.config.__name__}".lower()
            if self.kind == "reward" and self.config
            else self.made.lower()
        )

    def make(self, config, *, device, dtype):
        module = {"prompt source": "broken_prompts"}.get(self.kind, f"broken_{self.kind}s")
        found = getattr(import_module(module), self.made)
        if self.kind in ("backbone", "reward", "objective"):
            found = type(self.made, (found,), {"name": self.name})
        return found(config, device=device, dtype=dtype) if self.kind == "backbone" else found()


def _reward(made, defect, *clauses, config=None):
    return Case("reward", made, defect, clauses, config)


def _backbone(made, defect, *clauses):
    return Case("backbone", made, defect, clauses, TinyConfig)


def _sampler(made, defect, *clauses):
    return Case("sampler", made, defect, clauses)


def _prompts(made, defect, *clauses):
    return Case("prompt source", made, defect, clauses)


def _objective(made, defect, *clauses):
    return Case("objective", made, defect, clauses)


CASES = [
    _reward(
        "Detached",
        "the score is detached from the pixels",
        "pixel_gradient",
        "finite_differences",
        "direction",
    ),
    _reward("Relative", "scores are relative to the batch", "batch_independence", "pixel_gradient"),
    _reward(
        "GlobalCrop",
        "crops with torch's global generator",
        "determinism",
        "frame_average",
        "batch_independence",
        "finite_differences",
    ),
    _reward("HalfGradient", "half of the graph is cut", "finite_differences"),
    _reward("WrongSign", "the loss is the score itself", "direction"),
    _reward("Trainable", "its own network is left trainable", "frozen", "bfloat16"),
    _reward("Summed", "frames are summed, not averaged", "frame_average"),
    _reward(
        "Column",
        "scores of shape [B, 1]",
        "scores",
        "sizes",
        "determinism",
        "batch_independence",
        "sensitivity",
        "pixel_gradient",
        "finite_differences",
        "direction",
        "bfloat16",
    ),
    _reward("OneSize", "works at one resolution only", "sizes"),
    _reward("Sound", "takes any option and ignores it", "options", config=AnyOption),
    _reward("Sound", "an option without a description", "options", config=Undescribed),
    _reward("Sound", "a default that is not allowed itself", "options", config=WrongDefault),
    _backbone(
        "Detached",
        "predict runs without a graph",
        "gradient_to_latents",
        "gradient_to_lora",
        "checkpointing",
        "swapping",
        "bfloat16",
    ),
    _backbone("Mixing", "samples are mixed across the batch", "batch_independence", "gradient_to_latents"),
    _backbone("Thawed", "the decoder is left trainable", "loading", "gradient_to_lora"),
    _backbone("Eager", "the constructor loads the weights", "cheap_constructor"),
    _backbone("Clamping", "the decoder clamps", "decoding"),
    _backbone("Sorting", "chosen frames come sorted", "chosen_frames"),
    _backbone("Shifted", "chosen frames are one too late", "chosen_frames", "chosen_gradient"),
    _backbone("HalfRecomputed", "recomputed frames lose half of their gradient", "chosen_gradient"),
    _backbone("Hoarding", "gradient checkpointing is ignored", "checkpointing"),
    _backbone("Nested", "a swappable block within another", "swapping"),
    _backbone("Careless", "the posterior is drawn from the global generator", "encoding"),
    _backbone("Recording", "encode_video records a graph", "encoding"),
    _backbone("Boundless", "any geometry is accepted", "geometry"),
    _backbone("Timeless", "the timestep is ignored", "prediction"),
    _backbone("Blind", "a given image is ignored", "images"),
    _backbone(
        "Chancy",
        "its noise is torch's global one",
        "noise",
        "determinism",
        "checkpointing",
        "swapping",
        "bfloat16",
    ),
    _backbone("Narrow", "predictions in the weights' dtype", "bfloat16"),
    _backbone(
        "Mistargeted",
        "a LoRA target that names nothing",
        "meta_denoiser",
        "lora_targets",
        "gradient_to_lora",
        "checkpointing",
        "swapping",
        "bfloat16",
    ),
    _backbone("Overwriting", "predict changes its inputs in place", "inputs_unchanged", "batch_independence"),
    _backbone("HalfBuilt", "build_denoiser builds another model than load", "meta_denoiser"),
    _sampler("Remembering", "keeps the last prediction on itself", "purity", "dtypes", "batch_independence"),
    _sampler("Overwriting", "changes the state in place", "purity", "batch_independence"),
    _sampler("Drawing", "draws its own noise", "purity", "batch_independence"),
    _sampler("Tabled", "tables of tensors", "plan"),
    _sampler("Extra", "one step too many", "plan"),
    _sampler("Detaching", "cuts the graph at the state", "differentiable"),
    _sampler("Widening", "widens latents to float64", "dtypes"),
    _sampler("Backwards", "steps the wrong way", "arrival"),
    _sampler("WrongEstimate", "the clean estimate is the state", "clean_estimate", "differentiable"),
    _sampler("Unscaled", "the model's input is not scaled (EDM)", "model_input", "clean_estimate"),
    _sampler("Accepting", "zero steps are accepted", "refusals"),
    _sampler("Centring", "centres the noise over the batch", "batch_independence"),
    _prompts("Hashing", "uses Python's hash of a text", "same_in_every_process"),
    _prompts(
        "Choosing",
        "draws from Python's global generator",
        "function_of_seed_and_index",
        "same_in_every_process",
        "global_state",
    ),
    _prompts("Counting", "counts its calls, not the index", "function_of_seed_and_index"),
    _prompts(
        "Bounded",
        "ends after one pass",
        "draws_prompts",
        "function_of_seed_and_index",
        "same_in_every_process",
        "global_state",
        "evaluation_prompts",
    ),
    _prompts("Untested", "no evaluation prompts", "evaluation_prompts"),
    _prompts("Shared", "hands out its own list", "evaluation_prompts"),
    _prompts(
        "Plain",
        "prompts are plain strings",
        "draws_prompts",
        "function_of_seed_and_index",
        "same_in_every_process",
        "global_state",
        "evaluation_prompts",
    ),
    _prompts("Seeding", "reseeds Python's global generator", "global_state"),
    _objective("Wanting", "needs what nothing provides", "announces"),
    _objective("Idle", "a batch serves no update", "announces"),
    _objective("Misled", "takes a batch that it does not need", "announces"),
    _objective("Hasty", "the check loads the model", "checks"),
    _objective("Clumsy", "the check fails with one step", "checks"),
    _objective("Presuming", "defaults for options that it has not", "checks"),
    _objective("Short", "one value for two micro-steps", "preparation"),
    _objective("Graphful", "prepares with a graph", "preparation"),
    _objective("Untuned", "trains on the base model's prediction", "gradient", "updates"),
    _objective("Thawing", "thaws a frozen weight", "gradient"),
    _objective("Moving", "moves what learns by itself", "gradient", "model_unchanged"),
    _objective("Direct", "sends half of its loss back by itself", "sending_back"),
    _objective("Clipping", "clips the gradient itself", "sending_back"),
    _objective("Enclosed", "sends back within autocast", "outside_autocast"),
    _objective("Misreporting", "reports a loss for each sample", "results", "determinism", "state"),
    _objective("Attached", "reports a loss with its graph", "results"),
    _objective("Flat", "one score for the whole batch", "results"),
    _objective("Chancy", "draws from torch's global generator", "determinism", "sending_back", "state"),
    _objective("Seeding", "seeds torch's global generator", "determinism"),
    _objective("Resting", "the second update sends nothing", "updates"),
    _objective("Following", "moves what learns after an update", "updates", "model_unchanged"),
    _objective("Forgetful", "its state is not saved", "state"),
    _objective("Careless", "reads a state that it never wrote", "state"),
    _objective("Lingering", "leaves the adapter at half strength", "model_unchanged", "state"),
    _objective("Waking", "leaves the model in train mode", "model_unchanged"),
    _objective(
        "Endless",
        "a loss that is not finite",
        "gradient",
        "sending_back",
        "outside_autocast",
        "results",
        "determinism",
        "updates",
        "state",
    ),
]


def _register(kind, register):
    for case in CASES:
        if case.kind == kind:
            register(case.name, case.make, config=case.config, summary=case.defect)


@hookimpl
def register_backbones(register):
    _register("backbone", register)


@hookimpl
def register_samplers(register):
    _register("sampler", register)


@hookimpl
def register_rewards(register):
    _register("reward", register)


@hookimpl
def register_prompt_sources(register):
    _register("prompt source", register)


@hookimpl
def register_objectives(register):
    _register("objective", register)
