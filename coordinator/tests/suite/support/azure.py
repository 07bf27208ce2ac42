# Version-level immutability in front of Azurite, which has neither versions nor locks, as the REST reference of Azure Blob Storage
# describes them: Put Blob with the headers of a policy and a hold, Set and Delete Blob Immutability Policy, Set Blob Legal Hold,
# List Blobs with versions, Delete Blob. Azurite keeps the current blob of a name, this the versions.
#
# A blob that is deleted without a version becomes an older version, whatever its lock ("Version-level WORM policies"): the harder
# reading for whoever keeps evidence. Whether the current blob can be written again under a legal hold is not said; it is refused here,
# or makes a version on top, as the last argument says (refused, covered). Signatures are looked at here; requests that carry Signature=0 are the test's own, and pass.
import base64, datetime, email.utils, hashlib, hmac, http.client, http.server, sys, threading, urllib.parse
from xml.sax.saxutils import escape

PORT, UPSTREAM, ACCOUNT, KEY, CONTAINER, HELD = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:7]
MODE, UNTIL, HOLD = "x-ms-immutability-policy-mode", "x-ms-immutability-policy-until-date", "x-ms-legal-hold"
PAGE_MAX = 5  # Few, so that pages are turned.
lock = threading.Lock()
blobs = {}  # For each name its versions, the oldest first.
current = {}  # For each name the id of its current version, while there is one.
last = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)

def now():
    return datetime.datetime.now(datetime.timezone.utc)

def next_version():
    global last
    last = max(now(), last + datetime.timedelta(microseconds=1)) if blobs else now()
    return last.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"

def signature(method, path, query, headers):
    get = lambda name: headers.get(name, "")
    length = "" if get("content-length") == "0" else get("content-length")
    date = "" if "x-ms-date" in headers else get("date")
    lines = [method, get("content-encoding"), get("content-language"), length, get("content-md5"), get("content-type"), date]
    lines += [get(name) for name in ("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range")]
    lines += [f"{name}:{value}" for name, value in sorted(headers.items()) if name.startswith("x-ms-")]
    lines += [f"/{ACCOUNT}{path}"] + [f"{name.lower()}:{value}" for name, value in sorted(query.items())]
    mac = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256)
    return f"SharedKey {ACCOUNT}:{base64.b64encode(mac.digest()).decode()}"

def refused(status, code):
    body = f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
    return status, {"x-ms-error-code": code, "content-type": "application/xml"}, body

def forward(method, target, query, headers, body):
    path = target.partition("?")[0]
    headers = {name: value for name, value in headers.items() if name not in (MODE, UNTIL, HOLD, "host", "connection", "authorization")}
    headers.setdefault("x-ms-version", "2021-12-02")
    if "date" not in headers and "x-ms-date" not in headers:
        headers["x-ms-date"] = email.utils.formatdate(usegmt=True)
    headers["authorization"] = signature(method, path, query, headers)
    upstream = http.client.HTTPConnection("127.0.0.1", UPSTREAM, timeout=60)
    upstream.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        upstream.putheader(name, value)
    upstream.endheaders(body)
    answer = upstream.getresponse()
    content = answer.read()
    kept = {name.lower(): value for name, value in answer.getheaders()}
    for name in ("connection", "keep-alive", "transfer-encoding"):
        kept.pop(name, None)
    upstream.close()
    return answer.status, kept, content

def shown(version):
    headers = {"x-ms-version-id": version["id"], "etag": version["etag"], "last-modified": version["modified"], "x-ms-blob-type": "BlockBlob"}
    if version["until"]:
        headers |= {MODE: version["mode"].lower(), UNTIL: version["until"]}
    return headers | ({HOLD: "true"} if version["hold"] else {})

def protected(version):
    return version["hold"] or bool(version["until"]) and email.utils.parsedate_to_datetime(version["until"]) > now()

# Sets a policy, or says why not.
def wrong(version, until, mode):
    if mode.lower() not in ("locked", "unlocked") or not until or email.utils.parsedate_to_datetime(until) <= now():
        return refused(400, "InvalidHeaderValue")
    if version["mode"].lower() == "locked":
        shorter = email.utils.parsedate_to_datetime(until) < email.utils.parsedate_to_datetime(version["until"])
        if shorter or mode.lower() != "locked":
            return refused(409, "BlobImmutableDueToPolicy")
    version["until"], version["mode"] = until, mode
    return None

def unlock(version):
    if version["mode"].lower() == "locked":
        return refused(409, "BlobImmutableDueToPolicy")
    version["until"], version["mode"] = "", ""
    return 200, {}, b""

def put(name, target, query, headers, body):
    over = next((v for v in blobs.get(name, []) if v["id"] == current.get(name)), None)
    if HELD == "refused" and over and over["hold"] and headers.get("if-none-match") != "*":
        return refused(409, "BlobImmutableDueToPolicy")
    version = {"until": "", "mode": "", "hold": headers.get(HOLD) == "true", "body": body}
    if headers.get(UNTIL):
        why = wrong(version, headers[UNTIL], headers.get(MODE, "Unlocked"))
        if why:
            return why
    status, answer, content = forward("PUT", target, query, headers, body)
    if status == 201:
        version |= {"id": next_version(), "etag": answer["etag"], "modified": answer["last-modified"]}
        blobs.setdefault(name, []).append(version)
        current[name] = version["id"]
        answer["x-ms-version-id"] = version["id"]
    return status, answer, content

def read(version, method, headers):
    body, answer, status = version["body"], shown(version), 200
    wanted = headers.get("range", "") or headers.get("x-ms-range", "")
    if wanted:
        first, _, end = wanted.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(end or len(body) - 1), len(body) - 1)
        if begin >= len(body):
            return refused(416, "InvalidRange")
        answer["content-range"] = f"bytes {begin}-{end}/{len(body)}"
        body, status = body[begin : end + 1], 206
    answer["content-length"] = str(len(body))
    return status, answer, b"" if method == "HEAD" else body

def delete(name, version):
    if current.get(name) == version["id"]:
        return refused(403, "OperationNotAllowedOnRootBlob")
    if protected(version):
        return refused(409, "BlobImmutableDueToPolicy")
    blobs[name].remove(version)
    return 202, {}, b""

def of_version(name, method, query, headers):
    wanted = query.get("versionid", current.get(name))
    version = next((v for v in blobs.get(name, []) if v["id"] == wanted), None)
    comp = query.get("comp", "").lower()
    if version is None:
        return refused(404, "BlobNotFound")
    if comp == "legalhold" and method == "PUT":
        version["hold"] = headers.get(HOLD) == "true"
        return 200, shown(version), b""
    if comp == "immutabilitypolicies" and method == "PUT":
        return wrong(version, headers.get(UNTIL, ""), headers.get(MODE, "Unlocked")) or (200, shown(version), b"")
    if comp == "immutabilitypolicies":
        return unlock(version)
    return delete(name, version) if method == "DELETE" else read(version, method, headers)

def listed(query):
    found = [(n, v) for n in sorted(blobs) if n.startswith(query.get("prefix", "")) for v in blobs[n]]
    begin = int(query.get("marker") or 0)
    end = begin + min(int(query.get("maxresults", PAGE_MAX)), PAGE_MAX)
    lines = []
    for name, version in found[begin:end]:
        is_current = "<IsCurrentVersion>true</IsCurrentVersion>" if current.get(name) == version["id"] else ""
        properties = f"<Properties><Last-Modified>{version['modified']}</Last-Modified></Properties>"
        lines.append(f"<Blob><Name>{escape(name)}</Name><VersionId>{version['id']}</VersionId>{is_current}{properties}</Blob>")
    rest = f"<NextMarker>{end}</NextMarker>" if found[end:] else "<NextMarker />"
    body = f'\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{"".join(lines)}</Blobs>{rest}</EnumerationResults>'
    return 200, {"content-type": "application/xml"}, body.encode()

def answer(method, target, query, headers, body):
    path = target.partition("?")[0]
    container = f"/{ACCOUNT}/{CONTAINER}"
    name = urllib.parse.unquote(path.removeprefix(container + "/")) if path.startswith(container + "/") else ""
    if query.get("comp") == "list" and "versions" in query.get("include", ""):
        return listed(query)
    if name and ("versionid" in query or query.get("comp", "").lower() in ("legalhold", "immutabilitypolicies")):
        return of_version(name, method, query, headers)
    if name and method == "PUT" and "comp" not in query:
        return put(name, target, query, headers, body)
    status, answered, content = forward(method, target, query, headers, body)
    if name and method in ("GET", "HEAD") and status in (200, 206) and name in current:
        kept = next(v for v in blobs[name] if v["id"] == current[name])
        answered |= {n: v for n, v in shown(kept).items() if n.startswith("x-ms-")}
    if name and method == "DELETE" and status == 202:
        current.pop(name, None)
    if path == container and query == {"restype": "container"} and method in ("GET", "HEAD"):
        answered["x-ms-immutable-storage-with-versioning-enabled"] = "true"
    return status, answered, content

class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def serve(self):
        headers = {name.lower(): value.strip() for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length") or 0))
        path, _, raw = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(raw, keep_blank_values=True))
        authorization = headers.get("authorization", "")
        with lock:
            if not authorization.endswith("Signature=0") and authorization != signature(self.command, path, query, headers):
                status, answered, content = refused(403, "AuthenticationFailed")
            else:
                status, answered, content = answer(self.command, self.path, query, headers, body)
        self.send_response_only(status)
        answered.setdefault("content-length", str(len(content)))
        for name, value in answered.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = serve

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Front).serve_forever()
