#!/usr/bin/env python3
"""Record what PyLate and sentence-transformers compute, and that they compute the same from what we export.

    python tools/record_parity.py --peers PEERS/bin/python --peers-6 PEERS6/bin/python

Run with the project's own interpreter; PEERS and PEERS6 are environments of tools/parity/requirements.txt and
requirements-6.txt. Writes into tests/parity one zip per case (the checkpoint as the peer wrote it, and expected.npz:
token ids, embeddings and scores) and exports.json: for every export, by which library it was loaded, how far its
embeddings and scores are from ours, and a digest of the exported files, which the tests make anew.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent / "parity"
ROOT = HERE.parents[1]
RESAVED = ("pylate-default", "pylate-modernbert-gte", "dense-prompts", "dense-two-layers")
DIGESTED = ("*.json", "*.safetensors")
EXPORT = """
import sys
from pathlib import Path
from typing import Any
from ifir_lightning.commands.export import export
for model in sys.argv[2:]:
    export(model, f"{sys.argv[1]}/{Path(model).name}")
"""
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}


def run(python: str, *arguments: str) -> str:
    """The output of an interpreter; what it says otherwise is shown when it fails."""
    done = subprocess.run([python, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def score(python: str, library: str, folders: list[Path], output: Path) -> dict[str, dict[str, np.ndarray]]:
    """Ids, embeddings and scores of the suite's texts, for every folder by its name; kept in ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    files = {folder.name: output / f"{folder.name}.npz" for folder in folders}
    pairs = [str(part) for folder in folders for part in (folder, files[folder.name])]
    run(python, str(HERE / "score.py"), library, *pairs)
    return {name: dict(np.load(file)) for name, file in files.items()}


def pack(folder: Path, expected: Path, output: Path) -> None:
    """A zip with the checkpoint's files and what was computed from it; the same bytes for the same content."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.writestr(zipfile.ZipInfo(f"model/{path.relative_to(folder)}"), path.read_bytes(), 8)
        archive.writestr(zipfile.ZipInfo("expected.npz"), expected.read_bytes())


def digest(folder: Path) -> str:
    """Of all weights and settings of an exported folder, the version of transformers apart."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in DIGESTED for path in folder.rglob(pattern)):
        lines = [line for line in path.read_bytes().splitlines() if b'"transformers_version"' not in line]
        found.update(str(path.relative_to(folder)).encode() + b"\n".join(lines))
    return found.hexdigest()


def distance(what: str, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float | str]:
    """The largest differences, or which texts have another number of vectors; the peers' token ids must be ours."""
    for name in ("query_ids", "passage_ids"):
        if len(theirs[name]) and not np.array_equal(ours[name], theirs[name]):
            sys.exit(f"{what}: {name} differ: {ours[name]} {theirs[name]}")
    for name in ("query_rows", "passage_rows"):
        if not np.array_equal(ours[name], theirs[name]):
            return {"differs": f"{name}: ours {ours[name].tolist()}, theirs {theirs[name].tolist()}"}
    embeddings = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ("queries", "passages"))
    return {"embeddings": embeddings, "scores": float(np.abs(ours["scores"] - theirs["scores"]).max())}


def versions(python: str) -> str:
    """The libraries of an environment that matter here."""
    wanted = "torch transformers sentence-transformers pylate"
    code = (
        "import importlib.metadata as m\n"
        f"names = {{d.metadata['Name'].lower(): d.version for d in m.distributions()}}\n"
        f"print(', '.join(f'{{n}} {{names[n]}}' for n in '{wanted}'.split() if n in names))"
    )
    return run(python, "-c", code).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="interpreter with PyLate 1.6 and sentence-transformers 5.3")
    parser.add_argument("--peers-6", required=True, help="interpreter with sentence-transformers 6")
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "parity")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        record = {"peers": {"5.3": versions(arguments.peers), "6": versions(arguments.peers_6)}}
        record["cases"] = record_all(arguments, Path(temporary))
    (arguments.output / "exports.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(record['cases'])} cases in {arguments.output}")


def record_all(arguments: argparse.Namespace, temporary: Path) -> dict[str, dict]:
    """Build, score by the peer, export, score by us and by every peer that reads the exports."""
    run(arguments.peers, str(HERE / "cases.py"), str(temporary / "models"))
    again = [
        str(part) for name in RESAVED for part in (temporary / "models" / name, temporary / "models" / f"six-{name}")
    ]
    run(arguments.peers_6, str(HERE / "resave.py"), *again)
    models = sorted((temporary / "models").iterdir())
    dense = [model for model in models if "dense-" in model.name]
    late = [model for model in models if model not in dense]
    theirs = {}
    for library, python, cases in (
        ("pylate", arguments.peers, [model for model in late if not model.name.startswith("six")]),
        ("sentence-transformers", arguments.peers, [model for model in dense if not model.name.startswith("six")]),
        ("multi-vector", arguments.peers_6, [model for model in late if model.name.startswith("six")]),
        ("sentence-transformers", arguments.peers_6, [model for model in dense if model.name.startswith("six")]),
    ):
        theirs |= score(python, library, cases, temporary / "expected")
    ours = score(sys.executable, "ours", models, temporary / "ours")
    run(sys.executable, "-c", EXPORT, str(temporary / "exports"), *map(str, models))
    results: dict[str, dict[str, Any]] = {}
    arguments.output.mkdir(parents=True, exist_ok=True)
    for model in models:
        pack(model, temporary / "expected" / f"{model.name}.npz", arguments.output / f"{model.name}.zip")
        differences = distance(model.name, ours[model.name], theirs[model.name])
        results[model.name] = {"read": differences, "digest": digest(temporary / "exports" / model.name)}
    readers = {
        "PyLate 1.6": ("pylate", arguments.peers, late),
        "sentence-transformers 5.3": ("sentence-transformers", arguments.peers, dense),
        "sentence-transformers 6": ("sentence-transformers", arguments.peers_6, dense),
        "sentence-transformers 6, MultiVectorEncoder": ("multi-vector", arguments.peers_6, late),
    }
    for number, (reader, (library, python, cases)) in enumerate(readers.items()):
        exports = [temporary / "exports" / model.name for model in cases]
        for name, scored in score(python, library, exports, temporary / f"reader-{number}").items():
            results[name][reader] = distance(f"{name}, {reader}", ours[name], scored)
    for name, result in results.items():
        print(name, {key: value for key, value in result.items() if key != "digest"})
    return results


if __name__ == "__main__":
    main()
