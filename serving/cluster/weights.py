"""Another model in the Serve config, where a component says from where its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.cluster.objects import Json
from serving.cluster.sizing import inside
from serving.errors import ConfigurationError

#: How weights are loaded, and whose words they are: what `--set llm.engine_args={...}` of a plan leaves as it is.
LOADING = ("load_format", "model_loader_extra_config", "tokenizer")


def name_model(llm: Json, model: str, settings: Mapping[str, Any], images: Sequence[str]) -> None:
    """Changes `llm`. `images`: folders of GPU pods that are mounted images.

    What was made for another model goes: its name, its context length, its parsers. How weights are loaded stays.
    Raises ConfigurationError where the component cannot have that model.
    """
    old = str(llm.get("model") or "")
    brought = "://" in old or any(inside(old, place) for place in images)
    if model == old or (brought and model == llm.get("name")):
        return
    if any(inside(old, place) for place in images):
        if not any(inside(model, place) for place in images):
            raise ConfigurationError(
                f"--model {model}: the component weights-in-image serves what its image holds ({llm.get('name') or old}"
                f", at {old}). Name an image with your model in a patch of your overlay, and say --model {old} "
                f"--set llm.name={model} --set llm.engine_args.tokenizer={model}; or leave the component out."
            )
    elif "://" in old:
        _streamed(llm, old, model, settings)
        return
    llm.pop("name", None)
    llm.pop("engine_args", None)
    llm["model"] = model


def _streamed(llm: Json, old: str, model: str, settings: Mapping[str, Any]) -> None:
    if "://" not in model:
        raise ConfigurationError(
            f"--model {model}: the component weights-object-storage loads from a bucket. Put the model's folder there, "
            f"and say --model s3://BUCKET/FOLDER --set llm.name={model} --set llm.engine_args.tokenizer={model}; or "
            "leave the component out."
        )
    llm["model"] = model
    if model.rstrip("/").rpartition("/")[2] == old.rstrip("/").rpartition("/")[2]:
        return  # the same model, in another bucket
    whole = settings.get("llm.engine_args")
    if "llm.engine_args.tokenizer" not in settings and not (isinstance(whole, Mapping) and "tokenizer" in whole):
        raise ConfigurationError(
            f"--model {model}: a bucket's tokenizer is not read by the Api, and the component's is that of "
            f"{llm.get('name') or old}. Say whose it is: --set llm.engine_args.tokenizer=ORG/NAME (and what clients "
            "call the model: --set llm.name=NAME)."
        )
    llm.pop("name", None)
    kept = llm.get("engine_args") or {}
    llm["engine_args"] = {key: kept[key] for key in LOADING if key in kept and key != "tokenizer"}
