"""Pictures of a separation."""

from pathlib import Path

import numpy as np

from data_pipeline.spec import PatchSpec

RANGE_DB = 70
"""What a spectrogram shows below its loudest bin."""


def plot_separation(
    path: str | Path,
    patch: PatchSpec,
    sample_rate: int,
    *,
    mixture: np.ndarray,
    reference: np.ndarray,
    estimate: np.ndarray,
    title: str,
) -> None:
    """Writes a PNG with the spectrograms of mixture, true target and estimated target, on one scale.

    Args:
        path: of the PNG.
        patch: gives the sizes of the STFT.
        sample_rate: of the waveforms, in Hz.
        mixture: float32 (samples,).
        reference: float32 (samples,), the true target.
        estimate: float32 (samples,), the estimated target.
        title: above the picture.
    """
    import librosa
    from matplotlib.figure import Figure

    def level_db(waveform: np.ndarray) -> np.ndarray:
        return 20 * np.log10(np.abs(librosa.stft(waveform, n_fft=patch.n_fft, hop_length=patch.hop_length)) + 1e-6)

    pictures = {"mixture": level_db(mixture), "target, true": level_db(reference), "target, separated": level_db(estimate)}
    top = max(float(picture.max()) for picture in pictures.values())
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, len(pictures), sharey=True)
    extent = (0.0, len(mixture) / sample_rate, 0.0, sample_rate / 2000)
    for axes, (name, picture) in zip(panels, pictures.items(), strict=True):
        image = axes.imshow(picture, origin="lower", aspect="auto", extent=extent, vmin=top - RANGE_DB, vmax=top, cmap="magma")
        axes.set(title=name, xlabel="time in s")
    panels[0].set_ylabel("frequency in kHz")
    figure.colorbar(image, ax=panels, label="level in dB")
    figure.suptitle(title)
    temporary = Path(path).with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=100)
    temporary.replace(path)
