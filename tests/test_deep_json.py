"""JSON that others wrote: what is none, or is nested beyond reason, ends in a line that names the file."""
import struct

import pytest

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.dataset import read_folder
from vision_unlearning.data.prompts import read_prompt_file
from vision_unlearning.data.testbed import _read_split, split_fingerprint
from vision_unlearning.metrics.cost import tensor_bytes
from vision_unlearning.models.checkpoints import load_checkpoint
from vision_unlearning.models.pipelines import load_pipeline
from vision_unlearning.store import Store, read_entities, read_json
from vision_unlearning.unlearners.base import load_edit

BAD = {"deep list": b"[" * 3000, "deep object": b'{"a":' * 3000, "long number": b"1" * 5000,
       "no text": b"\xff\xfe\0", "half a character": b'{"a": "\\ud800"}',
       "cut": b'{"a": 1'}


def said_by_tensors(path, text):
    "A safetensors file with a text in its metadata."
    from safetensors.numpy import save_file
    save_file({}, path, metadata={"training": text.decode("latin-1")})


def read_table(folder, data):
    store = Store(folder)
    store.metadata("people").write_bytes(data)
    read_entities(store, "people")


def read_file(name, read):
    def act(folder, data):
        (folder / name).write_bytes(data)
        read(folder)
    return act


def read_checkpoint(folder, data):
    said_by_tensors(folder / "a.safetensors", data)
    load_checkpoint(folder / "a.safetensors")


def read_header(folder, data):
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)
    tensor_bytes(folder / "a.safetensors")


READERS = {
    "table": read_table,
    "any": read_file("a.json", lambda f: read_json(f / "a.json")),
    "edit": read_file("edit.json", load_edit),
    "model": read_file("model_index.json", lambda f: load_pipeline(str(f))),
    "data set": read_file("metadata.jsonl", read_folder),
    "split": read_file("metadata.jsonl", _read_split),
    "fingerprint": read_file("metadata.jsonl", lambda f: split_fingerprint([f])),
    "prompts": read_file("a.json", lambda f: read_prompt_file(f / "a.json")),
    "prompts, a line each": read_file("a.jsonl", lambda f: read_prompt_file(f / "a.jsonl")),
    "checkpoint": read_checkpoint,
    "header": read_header,
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("reader", READERS)
def test_json_that_is_none_is_refused_by_name(reader, bad, tmp_path):
    with pytest.raises(ForeignFileError) as error: READERS[reader](tmp_path, BAD[bad])
    names = {p.name for p in tmp_path.iterdir()} | {tmp_path.name}
    assert any(name in str(error.value) for name in names)
