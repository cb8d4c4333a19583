"""Judges synthetic subjects beside a ceiling and a floor.

Reference is a sample of train. Three samples of the same size are compared with it: the synthetic
one, the held-out one (the ceiling: no generator can be closer to train than other real people are,
unless it copies), and train with its codes dealt out at random (the floor: independent marginals).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward import __version__
from chronoward.data.origin import as_source
from chronoward.evaluation import fidelity as fid
from chronoward.evaluation.corpus import commonest_codes
from chronoward.evaluation.samples import (
    FEWEST_SUBJECTS,
    Samples,
    SyntheticConfig,
    open_events,
    read_samples,
)
from chronoward.evaluation.suppression import SMALLEST_CELL
from chronoward.evaluation.threads import single_threaded
from chronoward.evaluation.utility import discriminator, transfer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.origin import SourceLike
    from chronoward.evaluation.corpus import Corpus
    from chronoward.evaluation.intervals import Estimate

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

TITLES = {
    "prevalence_r2": ("Code prevalence, R²", "higher"),
    "within_visit_pairs_r2": ("Pairs of codes in one visit, R²", "higher"),
    "sequential_pairs_r2": ("Pairs of codes in two visits in a row, R²", "higher"),
    "gap_days_ks": ("Gap between visits, KS", "lower"),
    "gap_days_w1": ("Gap between visits, Wasserstein / IQR", "lower"),
    "age_years_ks": ("Age at the first visit, KS", "lower"),
    "age_years_w1": ("Age at the first visit, Wasserstein / IQR", "lower"),
    "events_ks": ("Events per subject, KS", "lower"),
    "events_w1": ("Events per subject, Wasserstein / IQR", "lower"),
    "visits_ks": ("Visits per subject, KS", "lower"),
    "visits_w1": ("Visits per subject, Wasserstein / IQR", "lower"),
    "span_years_ks": ("Years from first to last visit, KS", "lower"),
    "span_years_w1": ("Years from first to last visit, Wasserstein / IQR", "lower"),
    "sex_tv": ("Sex, total variation", "lower"),
    "race_tv": ("Race, total variation", "lower"),
    "died_tv": ("Deaths, total variation", "lower"),
    "lab_values_ks": ("Lab values, mean KS over the commonest labs", "lower"),
    "discriminator_auroc": ("Told apart by gradient boosting, AUROC", "half"),
    "transfer_auroc": ("Trained on it, tested on held-out: mean AUROC", "higher"),
}


def evaluate_synthetic(
    synthetic: SourceLike,
    train: SourceLike,
    held_out: SourceLike,
    *,
    work_dir: Path,
    config: SyntheticConfig | None = None,
) -> dict[str, Any]:
    """Compares synthetic subjects with train, beside the real-versus-real ceiling and a floor.

    Args:
        synthetic: an OMOP or MEDS source, as of `tokenize`, or a prepared folder.
        train: the same; when it is the same source as `held_out`, its splits are used.
        held_out: the same, of subjects the generator never saw.
        work_dir: for prepared events; may be patient data.
        config: sizes and seeds.

    Returns:
        The synthetic section of metrics.json.

    Raises:
        TooFewSubjectsError: fewer than 20 subjects in one of them (a DataError).
    """
    settings = config or SyntheticConfig()
    sources = {
        "synthetic": as_source(synthetic),
        "train": as_source(train),
        "held_out": as_source(held_out),
    }
    opened = {name: open_events(source, work_dir / name) for name, source in sources.items()}
    one, other = (
        source.resolve() if isinstance(source, Path) else source
        for source in (sources["train"], sources["held_out"])
    )
    samples = read_samples(opened, settings, by_split=one == other)
    return compare(samples, settings)


def too_few_section() -> dict[str, Any]:
    """The synthetic section where a sample was too small: it says so and has no metric."""
    reason = (
        f"fewer than {FEWEST_SUBJECTS} people on one side, training, held-out or synthetic: "
        "nothing is compared"
    )
    return {"reason": reason, "metrics": [], "chronoward_version": __version__}


@single_threaded
def compare(samples: Samples, config: SyntheticConfig) -> dict[str, Any]:
    """All metrics of the three samples, with what the figures draw.

    Args:
        samples: equally large samples.
        config: bootstrap settings.
    """
    reference = samples.train
    others = {
        "synthetic": samples.synthetic,
        "ceiling": samples.held_out,
        "floor": samples.floor,
    }
    found = {
        name: _statistics(reference, corpus, samples, config) for name, corpus in others.items()
    }
    for name in (
        "sex_tv",
        "race_tv",
        "died_tv",
        *(n for n in TITLES if n.endswith(("_ks", "_w1"))),
    ):
        if name != "lab_values_ks":  # the floor keeps these by construction
            found["floor"][name] = None
    moved = transfer(
        {"real": reference, "synthetic": samples.synthetic, "floor": others["floor"]},
        samples.held_out,
    )
    metrics = [
        {
            "name": name,
            "title": title,
            "better": better,
            **{who: _json(found[who].get(name)) for who in others},
        }
        for name, (title, better) in TITLES.items()
        if name != "transfer_auroc"
    ]
    return {
        "n_subjects_each": reference.n_subjects,
        "metrics": metrics + _transfer_metric(moved),
        "transfer": _transfer_tasks(moved, samples),
        "prevalence": _prevalence_points(samples),
        "overlays": _overlays(samples),
        "labs": _labs(samples),
        "n_replicates": config.n_replicates,
        "chronoward_version": __version__,
    }


def _json(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None or not math.isfinite(estimate.value):
        return None
    return estimate.to_json()


def _statistics(
    reference: Corpus, candidate: Corpus, samples: Samples, config: SyntheticConfig
) -> dict[str, Estimate | None]:
    n, m = reference.n_subjects, candidate.n_subjects
    size = len(samples.codes)
    statistics: dict[str, fid.Statistic] = {
        "prevalence_r2": fid.share_r_squared(
            fid.presence(reference.fact_subject, reference.fact_code, (n, size)),
            fid.presence(candidate.fact_subject, candidate.fact_code, (m, size)),
        ),
        "sex_tv": fid.total_variation(reference.sex, candidate.sex),
        "race_tv": fid.total_variation(reference.race, candidate.race),
        "died_tv": fid.total_variation(reference.died, candidate.died),
        "lab_values_ks": fid.mean_lab_ks(fid.lab_distances(reference, candidate)),
    }
    codes = commonest_codes(reference, fid.N_PAIR_CODES)
    if len(codes):
        ours, theirs = fid.pair_presence(reference, codes), fid.pair_presence(candidate, codes)
        statistics["within_visit_pairs_r2"] = fid.share_r_squared(ours[0], theirs[0])
        statistics["sequential_pairs_r2"] = fid.share_r_squared(ours[1], theirs[1])
    first, second = fid.durations(reference), fid.durations(candidate)
    for name in first:
        distance = fid.Distance(first[name], second[name])
        statistics[f"{name}_ks"] = distance.kolmogorov_smirnov
        statistics[f"{name}_w1"] = distance.wasserstein_over_iqr
    draws: dict[str, Any] = {"n_replicates": config.n_replicates, "seed": config.seed}
    found: dict[str, Estimate | None] = {}
    for name, statistic in statistics.items():
        bounds = (-math.inf, 1.0) if name.endswith("_r2") else (0.0, math.inf)
        found[name] = fid.subject_bootstrap(statistic, (n, m), range_=bounds, **draws)
    found["discriminator_auroc"] = discriminator(reference, candidate, config.seed)
    return found


def _transfer_metric(moved: dict[str, Any]) -> list[dict[str, Any]]:
    if not moved["tasks"]:
        return []
    title, better = TITLES["transfer_auroc"]
    names = {"synthetic": "synthetic", "ceiling": "real", "floor": "floor"}
    values = {
        ours: {"value": moved["mean"][theirs], "lower": None, "upper": None, "se": None}
        for ours, theirs in names.items()
    }
    return [{"name": "transfer_auroc", "title": title, "better": better, **values}]


def _transfer_tasks(moved: dict[str, Any], samples: Samples) -> dict[str, Any]:
    tasks = []
    for task in moved["tasks"]:
        about = samples.described.get(samples.codes.keys[task["code"]], {})
        areas = {name: estimate.to_json() for name, estimate in task["auroc"].items()}
        tasks.append({"label": about.get("label", ""), "auroc": areas})
    return {"tasks": tasks, "kept": moved["kept"].get("synthetic")}


def _prevalence_points(samples: Samples) -> list[dict[str, Any]]:
    """Shares of subjects by code; only codes that 11 subjects of train and of held-out have."""
    size = len(samples.codes)
    counts = {}
    for name in ("train", "held_out", "synthetic"):
        corpus: Corpus = getattr(samples, name)
        matrix = fid.presence(corpus.fact_subject, corpus.fact_code, (corpus.n_subjects, size))
        counts[name] = np.asarray(matrix.sum(axis=0)).ravel()
    enough = (counts["train"] >= SMALLEST_CELL) & (counts["held_out"] >= SMALLEST_CELL)
    kept = np.flatnonzero(enough)
    kept = kept[np.argsort(-counts["train"][kept], kind="stable")][:2000]
    n = samples.train.n_subjects
    return [
        {
            **samples.described.get(samples.codes.keys[code], {"label": "", "domain": "other"}),
            "train": counts["train"][code] / n,
            "held_out": counts["held_out"][code] / n,
            "synthetic": counts["synthetic"][code] / n,
        }
        for code in kept
    ]


def _overlays(samples: Samples) -> dict[str, Any]:
    """Histograms on the bins of train; real bins of fewer than 11 subjects are left out."""
    found = {
        name: fid.durations(getattr(samples, name)) for name in ("train", "held_out", "synthetic")
    }
    overlays: dict[str, Any] = {}
    for quantity in found["train"]:
        values = found["train"][quantity][0]
        if len(values) < SMALLEST_CELL:
            continue
        logarithmic = quantity not in ("age_years", "span_years")
        for n_bins in (30, 20, 14, 10, 7, 5):
            edges = _edges(values, n_bins, logarithmic=logarithmic)
            if quantity in ("visits", "events"):
                edges = np.unique(np.round(edges)) - 0.5
                edges = np.append(edges, edges[-1] + 1.0)
            shares = {
                name: _shares(parts[quantity], edges, hide=name != "synthetic")
                for name, parts in found.items()
            }
            if sum(share or 0.0 for share in shares["train"]) > 0.85:
                break
        overlays[quantity] = {"edges": edges, "logarithmic": logarithmic, **shares}
    return overlays


def _edges(values: Floats, n_bins: int, *, logarithmic: bool) -> Floats:
    low, top = (float(x) for x in np.quantile(values, [0.005, 0.995]))
    if logarithmic:
        return np.expm1(np.linspace(math.log1p(low), math.log1p(max(top, low + 1)), n_bins + 1))
    return np.linspace(low, max(top, low + 1e-9), n_bins + 1)


def _shares(sample: tuple[Floats, Ints], edges: Floats, *, hide: bool) -> list[float | None]:
    values, owner = sample
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    share = np.bincount(place, minlength=len(edges) - 1) / max(len(values), 1)
    pairs = np.unique(np.column_stack([place, owner]), axis=0)[:, 0]
    subjects = np.bincount(pairs, minlength=len(edges) - 1)
    return [
        None if hide and 0 < people < SMALLEST_CELL else float(part)
        for part, people in zip(share, subjects, strict=True)
    ]


def _labs(samples: Samples) -> list[dict[str, Any]]:
    ceilings = fid.lab_distances(samples.train, samples.held_out)
    rows = []
    n = samples.train.n_subjects
    ones = np.ones(n)
    by_code = {key[1]: about for key, about in samples.described.items()}
    for number, distance in fid.lab_distances(samples.train, samples.synthetic).items():
        code, unit = samples.labs.keys[number]
        ceiling = ceilings.get(number)
        rows.append(
            {
                "label": by_code.get(code, {}).get("label", code),
                "unit": unit,
                "synthetic": distance.kolmogorov_smirnov(ones, ones),
                "ceiling": ceiling.kolmogorov_smirnov(ones, ones) if ceiling else None,
            }
        )
    return rows
