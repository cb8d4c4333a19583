"""Concept embeddings as an option of the verbs that make a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chronoward import files
from chronoward.errors import ConfigError
from chronoward.tokenizer.concept_embeddings import ConceptEmbeddings, place_unseen

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from chronoward.tokenizer import Tokenizer


@dataclass(frozen=True)
class Placing:
    """Where unseen codes go: to the kept code of the nearest embedding, if it is near enough."""

    embeddings: Path
    at_least: float

    @classmethod
    def of(cls, concept_embeddings: Path | None, place_unseen: float | None) -> Placing | None:
        """From the two options of a verb, which go together.

        Raises:
            ConfigError: one is given without the other.
        """
        if (concept_embeddings is None) != (place_unseen is None):
            message = "concept_embeddings and place_unseen (a cosine) go together"
            raise ConfigError(message)
        if concept_embeddings is None or place_unseen is None:
            return None
        return cls(concept_embeddings, place_unseen)

    def description(self) -> dict[str, Any]:
        """What a resumed job must share, as JSON values."""
        return {"embeddings": files.sha256_file(self.embeddings), "at_least": self.at_least}

    def apply(self, tokenizer: Tokenizer, codes: pa.Table) -> Tokenizer:
        """The tokenizer with places for unseen codes (see `place_unseen`)."""
        embeddings = ConceptEmbeddings.read(self.embeddings)
        return place_unseen(tokenizer, embeddings, at_least=self.at_least, codes=codes)
