"""The experiments of notebook 01, as tidy tables: one row a measurement, so that seaborn and the report read them
alike.

Every experiment runs on fields in closed form, where the truth is known, from explicit seeds and in float64. Errors of
a form are differences to the truth or, where noted, to the same form of the exact field from the same draws, which
removes most of the sampling noise and none of the bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn
import torch
from matplotlib.axes import Axes

from lab.oracles.closed_form import GaussianMixtureField, GaussianPairField
from rfmi.estimators import change_of_variables, monte_carlo_forms
from rfmi.fields import VelocityField
from rfmi.sampling import path_scores, time_grid
from rfmi.statistics import bootstrap_mean, place_of_choice, rank_correlation
from rfmi.times import StratifiedTimes, gauss_legendre

FORMS = {
    "squared": "squared",
    "inner product": "inner_product",
    "re-noising": "re_noising",
    "residual": "residual",
}


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU with this seed."""
    return torch.Generator().manual_seed(seed)


def form_spreads(
    correlations: Sequence[float], draws: Sequence[int], n_pairs: int, seed: int, blocks: int = 10
) -> pd.DataFrame:
    """Standard deviation per pair of every form in exact pairs 1 + 1, by correlation, times per pair and density of
    times.

    Columns: correlation, information (nats), draws, times ("uniform" or "matched" to the squared integrand), form,
    block, spread (nats; of one of `blocks` blocks of pairs), off (the whole estimate's error in its own standard
    errors).
    """
    rows = []
    for correlation in correlations:
        field, generator = GaussianPairField.from_correlations([correlation]), seeded(seed)
        x, y = field.sample(n_pairs, generator)
        for count in draws:
            uniform = StratifiedTimes.uniform(count)
            matched = StratifiedTimes.matched(count, field.squared_integrand)
            for scheme, times in {"uniform": uniform, "matched": matched}.items():
                forms = monte_carlo_forms(field, x, y, times=times, generator=generator)
                for form, attribute in FORMS.items():
                    estimate = getattr(forms, attribute)
                    off = (estimate.value - field.mutual_information) / estimate.standard_error
                    row = {"correlation": correlation, "information": field.mutual_information, "draws": count}
                    row |= {"times": scheme, "form": form, "off": off}
                    spreads = estimate.pointwise.reshape(blocks, -1).std(1)
                    rows += [row | {"block": block, "spread": float(spread)} for block, spread in enumerate(spreads)]
    return pd.DataFrame(rows)


def truncation_losses(
    correlations: Sequence[float], stops: torch.Tensor, n_pairs: int, seed: int, nodes: int = 40
) -> pd.DataFrame:
    """What is left out by stopping at t_max in `stops`, exact, for pairs 1 + 1.

    Columns: correlation, remaining (1 - t_max), of ("the mean", for every form alike, or "one pair", the root mean
    square over n_pairs of what re-noising misses), nats.
    """
    rows = []
    for correlation in correlations:
        field = GaussianPairField.from_correlations([correlation])
        x, y = field.sample(n_pairs, seeded(seed))
        seen = field.kl_divergence(stops)
        for stop, part in zip(stops.tolist(), seen.tolist(), strict=True):
            t, weights = gauss_legendre(nodes, stop, 1.0)
            missed = float((weights @ field.re_noising_integrand(t, x, y)).square().mean().sqrt())
            row = {"correlation": correlation, "remaining": 1 - stop}
            rows.append(row | {"of": "the mean", "nats": field.mutual_information - part})
            rows.append(row | {"of": "one pair", "nats": missed})
    return pd.DataFrame(rows)


def fitted_field_bias(
    truth: GaussianPairField, sizes: Sequence[int], n_fits: int, n_pairs: int, seed: int
) -> pd.DataFrame:
    """Bias of every form when the field is the sample covariance of some pairs, on n_pairs fresh pairs from the truth.

    Columns: fitted_to (pairs, one of sizes), fit, form (with "plug-in", the information of the fitted covariance), bias
    (nats, against the exact field's estimate from the same draws).
    """
    rows, times = [], StratifiedTimes.uniform(8)
    for size in sizes:
        for fit in range(n_fits):
            generator = seeded(seed + fit)
            data = torch.cat(truth.sample(size, generator), 1)
            fitted = GaussianPairField(data.T.cov(), truth.x_dimension, data.mean(0))
            x, y = truth.sample(n_pairs, generator)
            found, exact = (
                monte_carlo_forms(field, x, y, times=times, generator=seeded(seed + fit)) for field in (fitted, truth)
            )
            biases = {form: getattr(found, a).value - getattr(exact, a).value for form, a in FORMS.items()}
            biases["plug-in"] = fitted.mutual_information - truth.mutual_information
            rows += [{"fitted_to": size, "fit": fit, "form": form, "bias": bias} for form, bias in biases.items()]
    return pd.DataFrame(rows)


def with_ripple(field: VelocityField, amplitude: float, fading: bool) -> VelocityField:
    """The field with amplitude * sin(4 x_t) added to its conditional branch, times 1 - t where `fading`."""

    def velocity(x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        exact = field(x_t, t, condition)
        if condition is None:
            return exact
        return exact + amplitude * (1 - t if fading else torch.ones_like(t))[:, None] * torch.sin(4 * x_t)

    return velocity


def end_of_path_bias(
    field: GaussianPairField, stops: Sequence[float], amplitude: float, n_pairs: int, seed: int, blocks: int = 10
) -> pd.DataFrame:
    """Bias of every form from a ripple on the conditional branch, by where the path is cut.

    Times are drawn with density 1 / (1 - t), which keeps the weight t / (1 - t) harmless near the end. Columns:
    remaining (1 - t_max), error ("constant in t" or "fading as 1 - t"), form, block, bias (nats, against the exact
    field's estimate from the same draws).
    """
    rows, (x, y) = [], field.sample(n_pairs, seeded(seed))
    for stop in stops:
        grid = 1 - torch.logspace(0, float(torch.log10(torch.tensor(1 - stop))), 80, dtype=torch.float64)
        times = StratifiedTimes.from_curve(16, grid, 1 / (1 - grid))
        exact = monte_carlo_forms(field, x, y, times=times, generator=seeded(seed))
        for error, fading in {"constant in t": False, "fading as 1 - t": True}.items():
            found = monte_carlo_forms(with_ripple(field, amplitude, fading), x, y, times=times, generator=seeded(seed))
            for form, attribute in FORMS.items():
                gaps = getattr(found, attribute).pointwise - getattr(exact, attribute).pointwise
                row = {"remaining": 1 - stop, "error": error, "form": form}
                means = gaps.reshape(blocks, -1).mean(1)
                rows += [row | {"block": block, "bias": float(mean)} for block, mean in enumerate(means)]
    return pd.DataFrame(rows)


def candidate_scores(
    field: GaussianPairField | GaussianMixtureField,
    prompts: torch.Tensor,
    *,
    candidates: int,
    guidance: float,
    sampling_steps: int,
    noises: Sequence[int],
    seed: int,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Every score of `candidates` samples for each prompt, and the exact point-wise information; tables (prompts,
    candidates).

    Samples come from Euler's rule along the guided ODE. Re-noising uses 10 stratified times and each number of noises,
    shared by the candidates of a prompt; the residual form uses the draws of the last number; the change of variables
    uses 8 steps and the exact divergence.
    """
    generator, conditions = seeded(seed), prompts.repeat_interleave(candidates, 0)
    dimension = field.x_dimension if isinstance(field, GaussianPairField) else field.dimension
    start = torch.randn(len(conditions), dimension, generator=generator, dtype=torch.float64)
    paths = path_scores(field, start, conditions, times=time_grid(sampling_steps), guidance=guidance)
    scores = {
        "path (Algorithm 2)": paths.path,
        "guided path (official)": paths.guided_path,
        "squared path": paths.squared,
    }
    for count in noises:
        forms = monte_carlo_forms(
            field,
            paths.samples,
            conditions,
            times=StratifiedTimes.uniform(10),
            noises=count,
            share=candidates,
            generator=generator,
        )
        scores[f"re-noising, 10 x {count}"] = forms.re_noising.pointwise
    scores[f"residual, 10 x {count}"] = forms.residual.pointwise
    scores["change of variables"] = change_of_variables(field, paths.samples, conditions, steps=8).pointwise
    exact = field.pointwise(paths.samples, conditions)
    tables = {name: values.reshape(len(prompts), candidates) for name, values in scores.items()}
    return tables, exact.reshape(len(prompts), candidates)


def ranking_table(scored: dict[tuple[str, float], tuple[dict[str, torch.Tensor], torch.Tensor]]) -> pd.DataFrame:
    """One row a field, guidance, score and prompt, from (field, guidance): what `candidate_scores` gave.

    Columns beside these: rank (Spearman's rho with the exact value), place (of the choice, 0 worst to 1 best).
    """
    parts = []
    for (field, guidance), (tables, exact) in scored.items():
        for score, table in tables.items():
            part = pd.DataFrame({"rank": rank_correlation(table, exact), "place": place_of_choice(table, exact)})
            parts.append(part.rename_axis("prompt").reset_index().assign(field=field, guidance=guidance, score=score))
    return pd.concat(parts, ignore_index=True)


def curves(axes: Axes, table: pd.DataFrame, x: str, y: str, *, by: str = "form", **settings: object) -> None:
    """Draw the mean of y against x, a line and marker for each value of `by`, with 95% bootstrap intervals over rows.

    settings: what `Axes.set` takes, and `legend` for the lines. Where x counts something, its values are the ticks.
    """
    look = {"markers": True, "dashes": False, "errorbar": ("ci", 95), "err_style": "bars", "seed": 0}
    look["legend"] = settings.pop("legend", "auto")
    seaborn.lineplot(table, x=x, y=y, hue=by, style=by, palette="colorblind", ax=axes, **look)
    axes.set(**settings)
    if pd.api.types.is_integer_dtype(table[x]):
        axes.minorticks_off()
        axes.set_xticks(ticks := sorted(table[x].unique()), labels=[f"{tick:,}" for tick in ticks])


def summarise(table: pd.DataFrame, by: list[str], value: str, seed: int, resamples: int = 2_000) -> pd.DataFrame:
    """Mean of `value` with its 95% bootstrap interval and n, one row for each combination of `by`."""
    rows = []
    for keys, part in table.groupby(by, sort=False):
        mean = bootstrap_mean(torch.tensor(part[value].to_numpy()), seed, resamples)
        rows.append(
            dict(zip(by, keys, strict=True)) | {value: mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
        )
    return pd.DataFrame(rows)
