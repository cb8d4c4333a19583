"""docs/loader.md runs: our blocks here, the peers' in environments of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.packing.clinic import make_token_store
from tests.packing.pages import blocks

from benchmarks import peers
from chronoward.meds_torch import MedsTorchConfig, MedsTorchLoader

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.meds_torch import MedsTorchBatch
    from chronoward.store import StoreSplit
    from chronoward.tokenizer import Tokenizer

PROPERTIES = (
    "mode",
    "static_inclusion_mode",
    "has_labels",
    "batch_size",
    "max_events_per_subject",
    "max_measurements_per_event",
    "max_measurements_per_subject",
)

# Their class made of our fields by the page's own block, and a small model that reads a batch.
CONSUME = """
import json, sys
from pathlib import Path
import numpy as np
import torch

answer, folder, block, names = sys.argv[1:]
text, found = open(block).read(), {}

def loss_of(batch):
    torch.manual_seed(0)
    embed = torch.nn.Embedding(batch.code.max() + 1, 8, padding_idx=batch.PAD_INDEX)
    head = torch.nn.Linear(10, 2)
    number = torch.where(batch.numeric_value_mask, batch.numeric_value, 0)
    x = [embed(batch["code"]), number[..., None], batch.time_delta_days[..., None]]
    return head(torch.cat(x, -1).mean(1)).square().mean()

for path in Path(folder).glob("*.npz"):
    space = {"batch": {name: torch.from_numpy(value) for name, value in np.load(path).items()}}
    exec(text, space)
    theirs = space["theirs"]
    loss = loss_of(theirs)
    loss.backward()
    assert torch.isfinite(loss)
    properties = {name: getattr(theirs, name) for name in json.loads(names)}
    found[path.stem] = {"keys": list(theirs.keys()), "text": str(theirs), **properties}
with open(answer, "w") as file:
    json.dump(found, file)
"""

# The page's collator on each row; a packed forward equals the timelines' own, one at a time.
COLLATE = """
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM

answer, given, block = sys.argv[1:]
rows = json.load(open(given))
text = open(block).read()
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=1 + max(t for row in rows for item in row for t in item["input_ids"]),
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=4096,
)).eval()
made = []
for row in rows:
    space = {"rows": [row]}
    exec(text, space)
    batch = space["batch"]
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"],
                       use_cache=False).logits[0]
        alone = torch.cat([model(torch.tensor([item["input_ids"]])).logits[0] for item in row])
    made.append({
        "cu_seqlens": batch["cu_seq_lens_q"].tolist(),
        "longest": int(batch["max_length_q"]),
        "token_id": batch["input_ids"][0].tolist(),
        "difference": float((packed - alone).abs().max()),
    })
with open(answer, "w") as file:
    json.dump(made, file)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StoreSplit, Tokenizer]:
    folder = tmp_path_factory.mktemp("page")
    store, tokenizer = make_token_store(folder / "tokens", "compact")
    return folder, store.split("train"), tokenizer


@pytest.fixture(scope="module")
def page(repository: Path) -> dict[str, list[str]]:
    return blocks(repository / "docs" / "loader.md")


def run_page(folder: Path, page: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    space: dict[str, Any] = {}
    for block in page[""]:
        exec(compile(block, "docs/loader.md", "exec"), space)
    return space


def test_the_pages_blocks_run_one_after_the_other(
    made: tuple[Path, StoreSplit, Tokenizer],
    page: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert [len(found) for found in page.values()] == [3, 1, 1]
    space = run_page(made[0], page, monkeypatch)
    assert space["tokens"].shape[1] == space["targets"].shape[1] == 2048
    assert space["code"].shape == space["days"].shape
    assert sum(len(row) for row in space["rows"]) == len(made[1])
    assert "rows in use" in capsys.readouterr().out


def ask(name: str, script: str, *arguments: str) -> Any:
    try:
        return peers.ask(name, script, *arguments)
    except peers.PeerUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.peer
def test_meds_torch_data_takes_our_batches_as_its_own(
    made: tuple[Path, StoreSplit, Tokenizer], page: dict[str, list[str]], tmp_path: Path
) -> None:
    _, split, tokenizer = made
    ours: dict[str, MedsTorchBatch] = {}
    modes: tuple[Any, ...] = ("include", "prepend", "omit")
    for mode in modes:
        config = MedsTorchConfig(max_seq_len=50, static_inclusion_mode=mode)
        batch = MedsTorchLoader(split, tokenizer, config, batch_size=16).batch(0, 0)
        ours[mode] = batch
        ours[f"{mode}_labeled"] = replace(batch, boolean_value=torch.arange(16) % 2 == 0)
    for name, batch in ours.items():
        np.savez(tmp_path / f"{name}.npz", **{n: t.numpy() for n, t in batch.items()})
    (tmp_path / "block.py").write_text(page["meds_torchdata"][0])
    properties = json.dumps(PROPERTIES)
    found = ask("meds_torch_data", CONSUME, str(tmp_path), str(tmp_path / "block.py"), properties)
    assert found.keys() == ours.keys()
    for name, batch in ours.items():
        assert found[name]["keys"] == list(batch.keys())
        assert {p: found[name][p] for p in PROPERTIES} == {p: getattr(batch, p) for p in PROPERTIES}
        assert "Subject-Measurement" in found[name]["text"]


@pytest.mark.peer
def test_a_hugging_face_collator_takes_our_rows(
    made: tuple[Path, StoreSplit, Tokenizer],
    page: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    rows = run_page(made[0], page, monkeypatch)["rows"]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "block.py").write_text(page["transformers"][0])
    found = ask("transformers", COLLATE, str(tmp_path / "rows.json"), str(tmp_path / "block.py"))
    for row, batch in zip(rows, found, strict=True):
        lengths = [len(item["input_ids"]) for item in row]
        assert batch["cu_seqlens"] == [0, *np.cumsum(lengths).tolist()]
        assert batch["longest"] == max(lengths)
        assert batch["token_id"] == [t for item in row for t in item["input_ids"]]
        assert sum(lengths) <= 2048
        assert batch["difference"] < 1e-4
    assert max(len(row) for row in rows) > 5
