"""Train a model for vocals with the stems of rendered songs, as `starter`, the model that comes with jaxpu, was trained.

    jaxpu prepare rendered_songs --musdb18hq rendered
    jaxpu train rendered_songs

`make starter` renders the songs with `jaxpu synthesize`, trains, and packs the models. The network is a U-Net of two levels
with a bottleneck. For `starter` a second training begins where this one ends (`--train.init-from runs/rendered_songs`): 1500
steps, with a learning rate of 1e-3 and a loss in which phase counts (`--objective.loss phase_sensitive`). It is an ensemble of
two such networks, of the seeds 0 and 1.

Hardware: CPU cores. On two, rendering took 14 minutes, and training with 6 clips a step 48 and 13 minutes on one of them.
Expected score: 10.4 dB SI-SDR improvement on other rendered songs, 8.2 dB on four excerpts of real songs, for one network after
both trainings with 6 clips a step (docs/results.md).
"""

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import Config, SupervisedConfig, TrainConfig, UNetConfig

config = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=44_100,
            stereo=True,
            clip_samples=65_536,
            n_fft=4096,
            win_length=4096,
            hop_length=2048,
            window="hann",
            level="recording",
        ),
        activity_on="mixture",
    ),
    model=UNetConfig(channels=(32, 48)),
    objective=SupervisedConfig(loss="ratio_mask", remix_songs=True),
    train=TrainConfig(
        num_steps=7000,
        batch_size=8,
        learning_rate=4e-3,
        schedule="cosine",
        gradient_clip=1.0,
        ema_decay=0.99,
        eval_every=500,
        select_by="last",
    ),
)
