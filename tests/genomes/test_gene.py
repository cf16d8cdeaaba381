from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace

from genomes.gene import Gene

GENE = Gene.of("split_domain", 1, loop="co", parts=(2, 6))


def test_equal_genes_have_equal_hashes():
    again = Gene.of("split_domain", 1, parts=(2, 6), loop="co")
    assert again == GENE
    assert hash(again) == hash(GENE)
    assert len({GENE, again, replace(GENE, statement=2)}) == 2


def test_copies_are_equal():
    for again in (copy.copy(GENE), copy.deepcopy(GENE), pickle.loads(pickle.dumps(GENE))):
        assert again == GENE
        assert hash(again) == hash(GENE)


def test_a_gene_from_another_process_is_found_in_a_set():
    # Hashes of text are salted by the process: a pickled hash would be lost in every set.
    script = (
        "import pickle, sys; from tests.genomes.test_gene import GENE; "
        "sys.stdout.buffer.write(pickle.dumps(GENE))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True
    )
    assert pickle.loads(done.stdout) in {GENE}
