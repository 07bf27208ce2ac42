"""Opens an ELF core file of a kernel with drgn, without any symbols, and reads text at addresses: a foreign reader of the notes, the
segments and, through VMCOREINFO, the page tables.

    drgn_image.py FILE ADDRESS...      v:HEX is virtual, p:HEX is physical
"""
import sys

import drgn

prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
assert prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL, prog.flags
assert prog.platform.arch == drgn.Architecture.X86_64, prog.platform
for word in sys.argv[2:]:
    kind, _, address = word.partition(":")
    print(prog.read(int(address, 16), 64, kind == "p").split(b"\0")[0].split(b"\n")[0].decode())
