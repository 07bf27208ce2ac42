"""Opens an ELF core of a kernel's memory with drgn and prints one JSON object.

    drgn_opens.py CORE ADDRESS LENGTH     reads so many bytes at a virtual address (hexadecimal)
"""
import json
import sys

import drgn

program = drgn.Program()
program.set_core_dump(sys.argv[1])
at = int(sys.argv[2], 16)
print(json.dumps({
    "kernel": bool(program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL),
    "platform": str(program.platform.arch),
    "bytes": program.read(at, int(sys.argv[3])).hex(),
}))
