"""`rfmi.choose_score`: which score tells a model's failures, asked of the model alone.

What an image shows is decided on the way from noise to it. Begun as another prompt's and finished as its own after
that, an image shows parts of the other prompt: a failure, known without a judge. The score that best tells a prompt's
own images from such failures is proposed, and the threshold that parts them best. Own images that fail lower the area
of every score alike. Scores against other prompts are not among those compared: they would be asked about the very
prompts that the failures were begun as.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from sklearn.metrics import roc_auc_score
from torch import Tensor

from rfmi.checks import check_guidance, whole_number
from rfmi.pipelines import PipelineField, identity_of, prompt_list, sizes_of
from rfmi.files import read_tensors, write_tensors
from rfmi.runs import own_device, work_on
from rfmi.sampling import sample
from rfmi.scoring.methods import PASSING_QUANTILE, Method, check_noises
from rfmi.scoring.re_noising import nearest_prompts, re_noising_errors, scores_of
from rfmi.statistics import bootstrap_mean

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GUIDED = 1.5  # the guidance of the field whose likelihood is one of the forms
FORMS = {
    "information": Method(),
    "likelihood": Method(null=False, likelihood=1.0),
    "information_and_likelihood": Method(likelihood=1.0),
    "guided_likelihood": Method(null=False, likelihood=1.0, guidance=GUIDED),
}
BEGUN_AS = 2  # of how many nearest prompts the failures of one are begun
BANDS = [(first, last) for first in range(9) for last in range(first + 2, min(first + 5, 9))]  # of 3 to 5 levels


@dataclass(frozen=True)
class Choice:
    """A score proposed without a judge.

    method: the score.
    failing: the threshold for `FinetuningSettings`, in deviations below the upper quartile.
    table: one row a score that was tried: form, lowest and highest noise level, area (value, low, high, n prompts).
    """

    method: Method
    failing: float
    table: pd.DataFrame


def choose_score(
    pipeline: DiffusionPipeline,
    prompts: Iterable[str],
    *,
    output: str | Path,
    guidance: float = 4.0,
    steps: int = 28,
    images: int = 4,
    changed_at: float = 0.35,
    noises: int = 4,
    seed: int = 0,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
    device: torch.device | str | None = None,
    micro_batch: int | None = None,
) -> Choice:
    """Propose a score for images of these prompts, drawn with this guidance, by the model alone.

    pipeline, prompts: each prompt once; a few dozen of the kind that will be drawn.
    output: a folder of its own. A killed call goes on at the next prompt, a finished one is only read.
    images: of each prompt, as many of its own as failures, which are begun as its two nearest prompts' in turn; of two
        prompts, as the other's.
    changed_at: the noise level at which a failure, begun as another prompt's image, goes on as the prompt's own.
    noises: draws of eps at each of nine noise levels.
    guidance, steps, seed: of the drawing.
    negative_prompt, height, width, max_sequence_length, device, micro_batch: of `PipelineField`.
    Raises ValueError, before anything is drawn, for numbers that do not fit, and a folder that holds something
    else; OSError for a full disk.
    """
    check_guidance(guidance)
    steps, images, noises = (
        whole_number(name, value, least)
        for name, value, least in (("steps", steps, 3), ("images", images, 2), ("noises", noises, 1))
    )
    check_noises(noises)
    if not 0 < changed_at < 1:
        raise ValueError(f"changed_at is {changed_at}; take a noise level between 0 and 1")
    folder, seed, prompts = Path(output), whole_number("seed", seed, 0), prompt_list(prompts, once=True)
    sizes = sizes_of(pipeline, height, width, max_sequence_length)
    asked = {"images": images, "guidance": float(guidance), "steps": steps, "changed_at": changed_at, "noises": noises}
    settings = asked | sizes | {"prompts": prompts, "negative_prompt": negative_prompt, "seed": seed}
    settings |= {"of": "choose_score"} | identity_of(pipeline)
    units = {i: folder / "units" / f"{i:05d}.safetensors" for i in range(len(prompts))}
    if not all(path.is_file() for path in units.values()):
        options = sizes | {"negative_prompt": negative_prompt, "device": own_device(device), "micro_batch": micro_batch}
        field = PipelineField(pipeline, prompts, **options)
        nearest, times = nearest_prompts(field, max(1, min(BEGUN_AS, len(prompts) - 1))), field.times(steps)
    for i in work_on(folder, settings, units, "choice"):
        first = seed + 2 * images * i
        noise, labels = field.noise(range(first, first + 2 * images)), torch.full((2 * images,), i)
        begun = nearest[i].repeat(images)[:images]
        x = torch.cat([
            sample(field, noise[:images], labels[:images], times=times, guidance=guidance),
            _changed(field, noise[images:], begun, labels[images:], times, guidance, changed_at),
        ])  # fmt: skip
        levels = 1 - torch.tensor(LEVELS, dtype=torch.float64)
        errors = re_noising_errors(field, x, [labels, None], times=levels, noises=noises, seed=first, guidance=GUIDED)
        write_tensors(units[i], {"errors": errors.cpu()})
    errors = torch.stack([read_tensors(path)[0]["errors"] for path in units.values()])
    return choice_of(errors, noises, seed)


def _changed(
    field: PipelineField, noise: Tensor, begun: Tensor, labels: Tensor, times: Tensor, guidance: float, level: float
) -> Tensor:
    """Latents drawn as other prompts' down to a noise level, and from there as the prompt's own."""
    k = min(max(int((times <= 1 - level).sum()) - 1, 1), len(times) - 2)
    on_the_way = sample(field, noise, begun, times=times[: k + 1], guidance=guidance)
    return sample(field, on_the_way, labels, times=times[k:], guidance=guidance)


def choice_of(errors: Tensor, noises: int, seed: int) -> Choice:
    """The choice from e (prompts, branches, images, levels, noises): own images first, as many failures after them;
    branches: the prompt, null, the guided field."""
    half, rows, scores = errors.shape[2] // 2, [], []
    truth = np.repeat([1, 0], half)
    for form, method in FORMS.items():
        of_form = [0, *([1] if method.asks_null else []), *([2] if method.guidance != 1 else [])]
        for first, last in BANDS:
            band = replace(method, sigmas=LEVELS[first : last + 1], noises=noises, weights="exact")
            found = [scores_of(each[of_form][:, :, first : last + 1], band).values for each in errors]
            areas = [roc_auc_score(truth, each) for each in found]
            row = {"form": form, "lowest": LEVELS[first], "highest": LEVELS[last]}
            rows.append(row | vars(bootstrap_mean(areas, seed)))
            scores.append((band, torch.stack(found)))
    table = pd.DataFrame(rows)
    method, values = scores[int(table.value.idxmax())]
    return Choice(method, failing_of(values, half), table)


def failing_of(scores: Tensor, own: int) -> float:
    """How far below the upper quartile of its prompt's own images, in deviations within prompts, a score fails: where
    own images and failures are parted best, by the share of right verdicts on each. scores: (prompts, images)."""
    quartile = scores[:, :own].quantile(PASSING_QUANTILE, dim=1, keepdim=True)
    deviation = (scores[:, :own] - scores[:, :own].mean(1, keepdim=True)).square().mean().sqrt()
    below = (quartile - scores) / deviation
    thresholds = below.flatten().unique()
    own_below, begun_below = below[:, :own], below[:, own:]
    passing = [(own_below <= each).double().mean() - (begun_below <= each).double().mean() for each in thresholds]
    return float(thresholds[int(torch.stack(passing).argmax())])
