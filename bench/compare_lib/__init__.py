# SPDX-License-Identifier: Apache-2.0
"""What bench/compare and bench/tcp are made of. tests/system gives the namespaces, nodes and guests."""

import os
import sys

sys.dont_write_bytecode = True
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, os.path.join(REPOSITORY, "tests", "system"))
