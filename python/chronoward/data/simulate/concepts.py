"""Named concepts with their real OMOP ids and codes, and the clinic's own background vocabulary.

Background concepts live in vocabularies of the simulator (`CW Condition`, ...), with made-up ids
below 2,000,000,000: they mean nothing, their frequencies follow Zipf, and they have a hierarchy so
that rare ones can be rolled up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.config import SimulationConfig

Domain = str


OWN_FIRST_ID: Final = 1_880_000_000
BACKGROUND_FIRST_ID: Final = 1_900_000_000
GROUP_FIRST_ID: Final = 1_890_000_000
CODES_PER_GROUP: Final = 17
BACKGROUND_DOMAINS: Final = (
    ("Condition", 0.42, "Clinical Finding"),
    ("Drug", 0.2, "Ingredient"),
    ("Procedure", 0.15, "Procedure"),
    ("Measurement", 0.1, "Lab Test"),
    ("Observation", 0.08, "Clinical Observation"),
    ("Device", 0.05, "Physical Object"),
)


@dataclass(frozen=True)
class Concept:
    """One row of the concept table; `key` is how the simulator calls it."""

    key: str
    concept_id: int
    name: str
    domain: Domain
    vocabulary: str
    concept_class: str
    code: str
    standard: str = "S"


def _snomed(
    key: str, concept_id: int, name: str, code: str, domain: Domain = "Condition"
) -> Concept:
    kinds = {"Condition": "Clinical Finding", "Procedure": "Procedure", "Device": "Physical Object"}
    return Concept(
        key, concept_id, name, domain, "SNOMED", kinds.get(domain, "Clinical Finding"), code
    )


def _drug(key: str, concept_id: int, name: str, code: str, kind: str = "Ingredient") -> Concept:
    return Concept(key, concept_id, name, "Drug", "RxNorm", kind, code)


def _loinc(
    key: str, concept_id: int, name: str, code: str, domain: Domain = "Measurement"
) -> Concept:
    kind = "Lab Test" if domain == "Measurement" else "Clinical Observation"
    return Concept(key, concept_id, name, domain, "LOINC", kind, code)


def _own(key: str, number: int, name: str, domain: Domain) -> Concept:
    kinds = {name: kind for name, _, kind in BACKGROUND_DOMAINS}
    return Concept(
        key, OWN_FIRST_ID + number, name, domain, f"CW {domain}", kinds[domain], f"N{number:02d}"
    )


def _unit(key: str, concept_id: int, name: str) -> Concept:
    return Concept(key, concept_id, name, "Unit", "UCUM", "Unit", key)


def _type(concept_id: int, name: str, code: str) -> Concept:
    return Concept(
        f"type {concept_id}", concept_id, name, "Type Concept", "Type Concept", "Type Concept", code
    )


CLINICAL: Final = (
    _snomed("heart_failure", 316139, "Heart failure", "84114007"),
    _snomed("dyspnea", 312437, "Dyspnea", "267036007"),
    _snomed("edema", 433595, "Edema", "267038008"),
    _snomed("hypertension", 320128, "Essential hypertension", "59621000"),
    _snomed("hyperlipidemia", 432867, "Hyperlipidemia", "55822004"),
    _snomed("atrial_fibrillation", 313217, "Atrial fibrillation", "49436004"),
    _snomed("reduced", 443580, "Systolic heart failure", "417996009"),
    _snomed("preserved", 443587, "Diastolic heart failure", "418304008"),
    _snomed("dementia", 4182210, "Dementia", "52448006"),
    _snomed("impairment", 439795, "Minimal cognitive impairment", "386805003"),
    _snomed("knee_osteoarthritis", 4079750, "Osteoarthritis of knee", "239873007"),
    _own("knee_pain", 1, "Pain in the knee", "Condition"),
    _snomed("lung_cancer", 443388, "Malignant tumor of lung", "363358000"),
    _own("local", 2, "Lung cancer, local stage", "Condition"),
    _own("regional", 3, "Lung cancer, regional stage", "Condition"),
    _own("metastatic", 4, "Lung cancer, metastatic stage", "Condition"),
    _snomed("weight_loss", 435928, "Abnormal weight loss", "267024001"),
    _snomed("cough", 254761, "Cough", "49727002"),
    _snomed("diabetes", 201826, "Type 2 diabetes mellitus", "44054006"),
    _snomed("appendicitis", 440448, "Appendicitis", "74400008"),
    _snomed(
        "flare", 257004, "Acute exacerbation of chronic obstructive airways disease", "195951007"
    ),
    _snomed("wheezing", 314754, "Wheezing", "56018004"),
    _snomed("fatigue", 4223659, "Fatigue", "84229001"),
    _snomed("fall", 436583, "Fall", "1912002", "Observation"),
    _snomed("kidney_failure", 193782, "End-stage renal disease", "46177005"),
    _snomed("echocardiography", 4230911, "Echocardiography", "40701008", "Procedure"),
    _snomed(
        "electrocardiogram", 4163951, "Electrocardiographic procedure", "29303009", "Procedure"
    ),
    _snomed("knee_replacement", 43531648, "Total knee replacement", "609588000", "Procedure"),
    _snomed("knee_x_ray", 4252419, "Radiologic examination of knee", "74016001", "Procedure"),
    _snomed("chemotherapy", 4273629, "Chemotherapy", "367336001", "Procedure"),
    _snomed("appendectomy", 4198190, "Appendectomy", "80146002", "Procedure"),
    _snomed("hemodialysis", 4120120, "Hemodialysis", "302497006", "Procedure"),
    _own("lobectomy", 5, "Removal of a lobe of the lung", "Procedure"),
    _snomed("pacemaker", 45772840, "Implantable cardiac pacemaker", "706004007", "Device"),
    _own("catheter", 6, "Dialysis catheter", "Device"),
    _drug("lisinopril", 1308216, "lisinopril", "29046"),
    _drug("lisinopril_10", 19080128, "lisinopril 10 MG Oral Tablet", "314076", "Clinical Drug"),
    _drug("metformin", 1503297, "metformin", "6809"),
    _drug(
        "metformin_500",
        40163924,
        "24 HR metformin hydrochloride 500 MG Extended Release Oral Tablet",
        "860975",
        "Quant Clinical Drug",
    ),
    _drug("furosemide", 956874, "furosemide", "4603"),
    _drug("furosemide_40", 957136, "furosemide 40 MG Oral Tablet", "313988", "Clinical Drug"),
    _drug("metoprolol", 1307046, "metoprolol", "6918"),
    _drug("donepezil", 715997, "donepezil", "135447"),
    _drug("carboplatin", 1344905, "carboplatin", "40048"),
    _drug(
        "carboplatin_10",
        1344909,
        "carboplatin 10 MG/ML Injectable Solution",
        "597195",
        "Clinical Drug",
    ),
    _drug("pemetrexed", 1304919, "pemetrexed", "68446"),
    _drug("pembrolizumab", 45775965, "pembrolizumab", "1547545"),
    _drug("morphine", 1110410, "morphine", "7052"),
    _drug("prednisone", 1551099, "prednisone", "8640"),
    _drug("albuterol", 1154343, "albuterol", "435"),
    _drug("acetaminophen", 1125315, "acetaminophen", "161"),
    _drug("hydrocodone", 1174888, "hydrocodone", "5489"),
    _drug(
        "acetaminophen_hydrocodone",
        40162522,
        "acetaminophen 325 MG / hydrocodone bitartrate 10 MG Oral Tablet",
        "856999",
        "Clinical Drug",
    ),
    _loinc("hba1c", 3004410, "Hemoglobin A1c/Hemoglobin.total in Blood", "4548-4"),
    _loinc("creatinine", 3016723, "Creatinine [Mass/volume] in Serum or Plasma", "2160-0"),
    _loinc(
        "nt_probnp",
        3029187,
        "Natriuretic peptide.B prohormone N-Terminal [Mass/volume] in Serum or Plasma",
        "33762-6",
    ),
    _loinc("systolic", 3004249, "Systolic blood pressure", "8480-6"),
    _loinc("eosinophils", 3028615, "Eosinophils [#/volume] in Blood by Automated count", "711-2"),
    _loinc("sodium", 3019550, "Sodium [Moles/volume] in Serum or Plasma", "2951-2"),
    _loinc("potassium", 3023103, "Potassium [Moles/volume] in Serum or Plasma", "2823-3"),
    _loinc("hemoglobin", 3000963, "Hemoglobin [Mass/volume] in Blood", "718-7"),
    _loinc("ldl", 3028437, "Cholesterol in LDL [Mass/volume] in Serum or Plasma", "2089-1"),
    _own("cognition", 7, "Cognition score, 0 to 30", "Measurement"),
    _loinc("smoking", 43054909, "Tobacco smoking status", "72166-2", "Observation"),
)

STRUCTURAL: Final = (
    Concept("F", 8532, "FEMALE", "Gender", "Gender", "Gender", "F"),
    Concept("M", 8507, "MALE", "Gender", "Gender", "Gender", "M"),
    Concept("white", 8527, "White", "Race", "Race", "Race", "5"),
    Concept("black", 8516, "Black or African American", "Race", "Race", "Race", "3"),
    Concept("asian", 8515, "Asian", "Race", "Race", "Race", "2"),
    Concept(
        "not_hispanic",
        38003564,
        "Not Hispanic or Latino",
        "Ethnicity",
        "Ethnicity",
        "Ethnicity",
        "Not Hispanic",
    ),
    Concept(
        "hispanic",
        38003563,
        "Hispanic or Latino",
        "Ethnicity",
        "Ethnicity",
        "Ethnicity",
        "Hispanic",
    ),
    Concept("IP", 9201, "Inpatient Visit", "Visit", "Visit", "Visit", "IP"),
    Concept("OP", 9202, "Outpatient Visit", "Visit", "Visit", "Visit", "OP"),
    Concept("ER", 9203, "Emergency Room Visit", "Visit", "Visit", "Visit", "ER"),
    Concept("remote", 5083, "Telehealth", "Visit", "CMS Place of Service", "Visit", "02"),
    Concept("pharmacy", 581458, "Pharmacy visit", "Visit", "Visit", "Visit", "OMOP4822457"),
    Concept("ICU", 32037, "Intensive Care", "Visit", "Visit", "Visit", "OMOP4822460"),
    Concept("home", 8536, "Home", "Visit", "CMS Place of Service", "Visit", "12"),
    Concept(
        "nursing", 8863, "Skilled Nursing Facility", "Visit", "CMS Place of Service", "Visit", "31"
    ),
    Concept(
        "expired", 4216643, "Patient died", "Observation", "SNOMED", "Clinical Finding", "419099009"
    ),
    Concept("yes_smoker", 45883458, "Former smoker", "Meas Value", "LOINC", "Answer", "LA15920-4"),
    Concept("no_smoker", 45879404, "Never smoker", "Meas Value", "LOINC", "Answer", "LA18978-9"),
    Concept(
        "less_than", 4171756, "<", "Meas Value Operator", "SNOMED", "Qualifier Value", "276139006"
    ),
    _unit("%", 8554, "percent"),
    _unit("mg/dL", 8840, "milligram per deciliter"),
    _unit("umol/L", 8749, "micromole per liter"),
    _unit("mmol/L", 8753, "millimole per liter"),
    _unit("pg/mL", 8845, "picogram per milliliter"),
    _unit("mm[Hg]", 8876, "millimeter mercury column"),
    _unit("10*3/uL", 8848, "thousand per microliter"),
    _unit("g/dL", 8713, "gram per deciliter"),
    _unit("{score}", 44777566, "score"),
    _type(32817, "EHR", "OMOP4976890"),
    _type(32821, "EHR billing record", "OMOP4976894"),
    _type(32840, "EHR problem list", "OMOP4976913"),
    _type(32838, "EHR prescription", "OMOP4976911"),
    _type(32825, "EHR dispensing record", "OMOP4976898"),
    _type(32818, "EHR administration record", "OMOP4976891"),
    _type(32856, "Lab", "OMOP4976929"),
    _type(32882, "Standard algorithm from EHR", "OMOP4976955"),
)

# Clinical drug -> its ingredients (rows of concept_ancestor).
INGREDIENTS: Final = {
    "lisinopril_10": ("lisinopril",),
    "metformin_500": ("metformin",),
    "furosemide_40": ("furosemide",),
    "carboplatin_10": ("carboplatin",),
    "acetaminophen_hydrocodone": ("acetaminophen", "hydrocodone"),
}
# A finding and what it is a kind of.
PARENTS: Final = {
    "reduced": "heart_failure",
    "preserved": "heart_failure",
    "local": "lung_cancer",
    "regional": "lung_cancer",
    "metastatic": "lung_cancer",
}


@dataclass(frozen=True, eq=False)
class Catalog:
    """All concepts that records may use, by index.

    Attributes:
        concepts: named ones first, then the background.
        n_named: how many are named.
        index: key -> index, of the named ones.
        domain: index into `DOMAINS` for each concept, int8.
        concept_id: int64 for each concept.
        site_weights: float64 [2, n_background], Zipf with another order at each site; a code that a
            site does not use has weight 0.
        groups: parents of the background codes; concept k of the background has parent
            `k // CODES_PER_GROUP`.
    """

    concepts: tuple[Concept, ...]
    n_named: int
    index: dict[str, int]
    domain: NDArray[np.int8]
    concept_id: NDArray[np.int64]
    site_weights: NDArray[np.float64]
    groups: tuple[Concept, ...]


DOMAINS: Final = tuple(name for name, _, _ in BACKGROUND_DOMAINS)


def _background(n: int) -> tuple[list[Concept], list[Concept]]:
    codes: list[Concept] = []
    groups: list[Concept] = []
    for k in range(n):
        group = k // CODES_PER_GROUP
        position = (group * 0.618034) % 1.0  # spreads the domains over the ranks
        share = 0.0
        domain, kind = BACKGROUND_DOMAINS[0][0], BACKGROUND_DOMAINS[0][2]
        for name, part, concept_class in BACKGROUND_DOMAINS:
            if position >= share:
                domain, kind = name, concept_class
            share += part
        vocabulary = f"CW {domain}"
        if k % CODES_PER_GROUP == 0:
            # An ingredient's parent must be no ingredient itself, or drugs would roll up to it.
            parent_kind = "ATC 4th" if domain == "Drug" else "Group"
            groups.append(
                Concept(
                    f"group {group}", GROUP_FIRST_ID + group, f"{domain} group {group}", domain,
                    vocabulary, parent_kind, f"G{group:03d}", "C" if domain == "Drug" else "S",
                )
            )  # fmt: skip
        codes.append(
            Concept(
                f"background {k}", BACKGROUND_FIRST_ID + k, f"Background {domain.lower()} {k}",
                domain, vocabulary, kind, f"B{k:04d}",
            )
        )  # fmt: skip
    return codes, groups


def _site_weights(n: int, exponent: float) -> NDArray[np.float64]:
    """Zipf weights at both sites: B ranks in another order; a quarter of codes is not shared."""
    k = np.arange(n)
    rank_b = (k * 7) % 11 + (k // 11) * 11  # shuffles within blocks of 11 ranks
    weights = np.stack([1.0 / (1.0 + k) ** exponent, 1.0 / (1.0 + rank_b) ** exponent])
    weights[0, k % 8 == 3] = 0.0
    weights[1, k % 8 == 5] = 0.0
    return weights


def build_catalog(config: SimulationConfig) -> Catalog:
    """The clinic's concepts."""
    n = config.records.n_background_codes
    background, groups = _background(n)
    concepts = (*CLINICAL, *background)
    order = {name: i for i, name in enumerate(DOMAINS)}
    return Catalog(
        concepts=concepts,
        n_named=len(CLINICAL),
        index={concept.key: i for i, concept in enumerate(CLINICAL)},
        domain=np.array([order[c.domain] for c in concepts], dtype=np.int8),
        concept_id=np.array([c.concept_id for c in concepts], dtype=np.int64),
        site_weights=_site_weights(n, config.records.zipf_exponent),
        groups=tuple(groups),
    )
