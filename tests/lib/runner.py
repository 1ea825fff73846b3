# SPDX-License-Identifier: Apache-2.0
"""Runs a file of unittest cases under the exit codes of the suite: 0 passed, 1 failed, 77 all skipped."""

import shutil
import sys
import unittest

import vmlab


def main():
    if not shutil.which(vmlab.QEMU):
        print(f"SKIPPED: {vmlab.QEMU} is not installed")
        sys.exit(77)
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if result.testsRun and len(result.skipped) == result.testsRun else 0)
