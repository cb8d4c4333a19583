"""What a sample is good for: telling it from the real one, and training on it.

The discriminator's AUROC is ½ for samples that cannot be told apart. TSTR trains on synthetic
subjects and tests on held-out real ones, TRTR trains on real ones: five new-onset tasks ("does a
code that was absent in the first half of the visits come in the second?"), chosen by how common
they are in the real training sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from chronoward.evaluation.corpus import commonest_codes
from chronoward.evaluation.discrimination import clustered_delong
from chronoward.evaluation.intervals import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.evaluation.corpus import Corpus

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

N_DISCRIMINATOR_CODES = 200
N_TASK_CODES = 300
N_TASKS = 5
N_FOLDS = 5
FEWEST_CASES = 20
FEWEST_VISITS = 4


def _counts(subject: Ints, code: Ints, codes: Ints, n: int) -> sparse.csr_array:
    """Events by subject and chosen code, (n, len(codes))."""
    place = np.minimum(np.searchsorted(codes, code), len(codes) - 1)
    kept = codes[place] == code
    entries = (np.ones(int(kept.sum())), (subject[kept], place[kept]))
    return sparse.csr_array(entries, shape=(n, len(codes)))


def _demographics(corpus: Corpus) -> Floats:
    age = np.nan_to_num(corpus.start_age, nan=50.0) / 50.0
    return np.column_stack([age, corpus.sex == "F", corpus.sex == "M"]).astype(np.float64)


def _whole_record(corpus: Corpus, codes: Ints) -> Floats:
    counts = _counts(corpus.event_subject, corpus.event_code, codes, corpus.n_subjects)
    n = corpus.n_subjects
    sizes = [
        np.bincount(owner, minlength=n) for owner in (corpus.event_subject, corpus.visit_subject)
    ]
    lengths = np.column_stack(sizes)
    return np.hstack([counts.toarray(), np.log1p(lengths), _demographics(corpus)])


def discriminator(reference: Corpus, candidate: Corpus, seed: int) -> Estimate:
    """AUROC of gradient boosting that tells the candidate from the reference, out of fold.

    Args:
        reference: the real sample.
        candidate: the sample to tell from it.
        seed: of the folds and of the model.

    Returns:
        ½ is best; NaN for fewer than 20 subjects in either.
    """
    n, m = reference.n_subjects, candidate.n_subjects
    if min(n, m) < FEWEST_CASES:
        return Estimate(math.nan)
    codes = commonest_codes(reference, N_DISCRIMINATOR_CODES)
    features = np.vstack([_whole_record(reference, codes), _whole_record(candidate, codes)])
    label = np.repeat([False, True], [n, m])
    generator = np.random.Generator(np.random.Philox(key=seed))
    fold = generator.permutation(n + m) % N_FOLDS
    score = np.zeros(n + m)
    for held in range(N_FOLDS):
        model = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=15, learning_rate=0.1, early_stopping=False, random_state=0
        )
        model.fit(features[fold != held], label[fold != held])
        score[fold == held] = model.predict_proba(features[fold == held])[:, 1]
    return clustered_delong(label, score, np.arange(n + m), n + m)


@dataclass(frozen=True)
class Halves:
    """Subjects with enough visits: what they had in the first half, what came new in the second."""

    features: sparse.csr_array
    fresh: NDArray[np.bool_]  # (n, codes) new in the second half
    at_risk: NDArray[np.bool_]  # (n, codes) not in the first


def halves(corpus: Corpus, codes: Ints) -> Halves:
    """Cuts every timeline in the middle of its visits.

    Args:
        corpus: the sample; subjects with fewer than four visits are left out.
        codes: int64[k] ascending, features and possible labels.
    """
    n = corpus.n_subjects
    bounds = np.searchsorted(corpus.visit_subject, np.arange(n + 1))
    middle = (bounds[:-1] + bounds[1:]) // 2
    subject = corpus.event_subject
    early = corpus.event_visit < middle[subject]
    before = _counts(subject[early], corpus.event_code[early], codes, n)
    after = _counts(subject[~early], corpus.event_code[~early], codes, n)
    kept = np.flatnonzero(np.diff(bounds) >= FEWEST_VISITS)
    counts = sparse.csr_array(before[kept])
    logged = counts.copy()
    logged.data = np.log1p(logged.data)
    absent = counts.toarray() == 0
    came = after[kept].toarray() > 0
    dense = sparse.csr_array(_demographics(corpus)[kept])
    return Halves(sparse.csr_array(sparse.hstack([logged, dense])), came & absent, absent)


def choose_tasks(train: Halves, test: Halves) -> list[int]:
    """Up to five codes whose new onset is common enough in train and test, nearest to 15 %."""
    found = []
    for code in range(train.fresh.shape[1]):
        cases = [int(part.fresh[:, code].sum()) for part in (train, test)]
        controls = [int((part.at_risk & ~part.fresh)[:, code].sum()) for part in (train, test)]
        if min(cases + controls) >= FEWEST_CASES:
            share = cases[0] / (cases[0] + controls[0])
            found.append((abs(share - 0.15), code))
    return [code for _, code in sorted(found)[:N_TASKS]]


def train_and_test(train: Halves, test: Halves, code: int) -> Estimate:
    """AUROC on `test` of a logistic regression fitted on `train`; NaN with too few cases."""
    rows, others = train.at_risk[:, code], test.at_risk[:, code]
    label = train.fresh[rows, code]
    if min(int(label.sum()), int((~label).sum())) < 2:
        return Estimate(math.nan)
    model = LogisticRegression(C=0.1, max_iter=500)
    model.fit(train.features[np.flatnonzero(rows)], label)
    score = model.predict_proba(test.features[np.flatnonzero(others)])[:, 1]
    event = test.fresh[others, code]
    if not event.any() or event.all():
        return Estimate(math.nan)
    return clustered_delong(event, score, np.arange(len(score)), len(score))


def transfer(samples: dict[str, Corpus], test: Corpus) -> dict[str, Any]:
    """Trains on each sample, tests on the same held-out subjects.

    Args:
        samples: `real` (chooses the tasks and is the ceiling), and any others by name.
        test: held-out real subjects.

    Returns:
        tasks (code number, AUROC by sample), mean (by sample), and kept (by sample): (mean - ½) as
        a share of the real sample's.
    """
    codes = commonest_codes(samples["real"], N_TASK_CODES)
    if len(codes) == 0:
        return {"tasks": [], "mean": {}, "kept": {}}
    cut = {name: halves(corpus, codes) for name, corpus in samples.items()}
    held_out = halves(test, codes)
    tasks: list[dict[str, Any]] = []
    for code in choose_tasks(cut["real"], held_out):
        found = {name: train_and_test(part, held_out, code) for name, part in cut.items()}
        tasks.append({"code": int(codes[code]), "auroc": found})
    means = {
        name: float(np.mean([_or_half(task["auroc"][name].value) for task in tasks]))
        for name in samples
        if tasks
    }
    room = means.get("real", 0.5) - 0.5
    errors = np.array([task["auroc"]["real"].se for task in tasks])
    # a share of next to nothing would be noise: real subjects must teach something first
    teaches = bool(tasks) and room > 2 * float(np.sqrt(np.square(errors).sum())) / len(tasks)
    kept = {name: (mean - 0.5) / room for name, mean in means.items()} if teaches else {}
    return {"tasks": tasks, "mean": means, "kept": kept}


def _or_half(value: float) -> float:
    """A sample that cannot train a task has learned nothing about it."""
    return value if math.isfinite(value) else 0.5
