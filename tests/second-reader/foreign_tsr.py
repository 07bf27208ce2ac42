#!/usr/bin/env python3
"""Verifies a stored timestamp with the PyPI package rfc3161-client, which shares nothing with Exhibit.

    foreign_tsr.py REPLY ROOT_PEM       the stamped head is <size>.checkpoint beside the reply
"""

import pathlib
import sys

from cryptography import x509
from rfc3161_client import VerifierBuilder, decode_timestamp_response

reply, root = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
response = decode_timestamp_response(reply.read_bytes())
verifier = VerifierBuilder().add_root_certificate(x509.load_pem_x509_certificate(root.read_bytes())).build()
head = (reply.parent / (reply.name[:10] + ".checkpoint")).read_bytes()
verifier.verify_message(response, head)
print("good:", response.tst_info.gen_time.isoformat())
