"""Words of other programs, and what they are here."""

from __future__ import annotations

#: A command that people try -> what to do instead.
COMMANDS: dict[str, str] = {
    **dict.fromkeys(
        ("finetune", "fine-tune", "finetuning", "tune", "fit", "sft"),
        "to learn from your own clips: vader train --data videos:FOLDER (docs/fine-tuning.md)",
    ),
    **dict.fromkeys(
        ("ui", "gui", "web", "webui", "serve", "dashboard"),
        "the web page is vader studio (of vader-studio); a run also writes its own, RUN/report.html",
    ),
    **dict.fromkeys(("generate", "infer", "inference", "predict"), "to make videos: vader sample"),
    **dict.fromkeys(("eval", "test"), "to compare with the base model: vader evaluate RUN"),
    **dict.fromkeys(("resume", "continue"), "to go on with a run: vader train --resume RUN"),
    **dict.fromkeys(("convert",), "to write a LoRA for other programs: vader lora convert"),
    **dict.fromkeys(("download", "fetch", "pull"), "to fetch weights: vader weights NAME --download"),
    **dict.fromkeys(("list", "models", "recipes", "rewards"), "to list what there is: vader plugins"),
    **dict.fromkeys(("init", "new", "create"), "to begin a plugin: vader new-plugin NAME --kind reward"),
    **dict.fromkeys(("upload", "share", "publish"), "to share a run: vader push RUN OWNER/NAME"),
    **dict.fromkeys(("align", "rl", "grpo", "dpo"), "to train with a reward: vader train --reward NAME"),
    **dict.fromkeys(("caption", "preprocess", "dataset"), "to prepare footage: vader data run FOLDER"),
}

#: An option likewise.
OPTIONS: dict[str, str] = {
    **dict.fromkeys(
        ("--dataset", "--dataset-path", "--dataset_path", "--train-data-dir", "--train_data_dir", "--clips"),
        "clips to learn from are --data file:PATH or --data videos:FOLDER",
    ),
    **dict.fromkeys(
        ("--model", "--model-path", "--pretrained_model_name_or_path"), "the model is --backbone"
    ),
    **dict.fromkeys(
        ("--checkpoint", "--ckpt", "--ckpt_path"), "the model's file is --weights, a LoRA is --lora"
    ),
    **dict.fromkeys(("--steps", "--num_train_steps", "--max_train_steps"), "training steps are --max-steps"),
    **dict.fromkeys(("--inference-steps", "--num_inference_steps"), "sampling steps are --num-steps"),
    **dict.fromkeys(("--learning-rate", "--learning_rate"), "the learning rate is --lr"),
    **dict.fromkeys(("--rank", "--lora_rank"), "the rank is --lora-rank"),
    **dict.fromkeys(("--cfg", "--guidance", "--guidance_scale"), "guidance is --guidance-scale"),
    **dict.fromkeys(
        ("--prompt", "--prompt-file", "--prompt_file"), "prompts are --prompts text:… or file:PATH"
    ),
    **dict.fromkeys(("--output", "--output-dir", "--output_dir", "-O"), "the folder is --out"),
    **dict.fromkeys(("--frames", "--num_frames", "--length"), "the number of frames is --num-frames"),
    **dict.fromkeys(("--gpus", "--num-gpus", "--num_gpus"), "several devices are --num-processes"),
    **dict.fromkeys(
        ("--reward-fn", "--reward_fn", "--reward-func"), "a reward is --reward NAME or FILE.py:FUNCTION"
    ),
}
