"""pytorch-tabular: its models through `TabularModel.fit`."""

from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_tabular import TabularModel, models
from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig

from benchmarks.foreign.data import table, trainer_arguments

DISTRIBUTION = "pytorch-tabular"


def fit(config: str, hyper: dict[str, Any], classes: int, callbacks: list[Any], folder: Path) -> None:
    given = trainer_arguments(pl, callbacks, folder)
    passed = {name: given[name] for name in ("default_root_dir",)}
    tabular = TabularModel(
        data_config=DataConfig(["target"], [f"x{index}" for index in range(5)], ["kind"]),
        model_config=getattr(models, config)(task="classification" if classes else "regression", **hyper),
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(
            batch_size=64,
            max_epochs=given["max_epochs"],
            accelerator="cpu",
            progress_bar="none",
            early_stopping=None,
            checkpoints=None,
            load_best=False,
            trainer_kwargs=passed,
        ),
        verbose=False,
    )
    frame = table(classes)
    tabular.fit(frame[:384], frame[384:], callbacks=callbacks)


HYPER: dict[str, dict[str, Any]] = {
    "CategoryEmbeddingModelConfig": {"layers": "32-16"},
    "GANDALFConfig": {"gflu_stages": 3},
    "GatedAdditiveTreeEnsembleConfig": {"num_trees": 3, "tree_depth": 3, "gflu_stages": 2},
    "TabNetModelConfig": {},
    "NodeConfig": {"num_trees": 16, "depth": 3, "num_layers": 1},
    "AutoIntConfig": {"attn_embed_dim": 8},
    "TabTransformerConfig": {"input_embed_dim": 8, "num_heads": 2, "num_attn_blocks": 2},
    "FTTransformerConfig": {"input_embed_dim": 8, "num_heads": 2, "num_attn_blocks": 2},
    "DANetConfig": {"n_layers": 4},
    "MDNConfig": {
        "backbone_config_class": "CategoryEmbeddingModelConfig",
        "backbone_config_params": {"layers": "16", "task": "backbone"},
        "head_config": {"num_gaussian": 2},
    },
}
FITS = {config.removesuffix("Config"): partial(fit, config, hyper, 0) for config, hyper in HYPER.items()}
FITS["CategoryEmbedding-classes"] = partial(fit, "CategoryEmbeddingModelConfig", {"layers": "32-16"}, 3)
FITS["FTTransformer-classes"] = partial(fit, "FTTransformerConfig", HYPER["FTTransformerConfig"], 2)
