# Google Cloud Storage in front of the S3 server, as its reference describes it. The XML API is close to S3's: preconditions and
# versions are generations, locks are headers of a put. The JSON API says all else of versions, retentions and holds. What is
# replaced or deleted without a generation is no longer live, and stays, whatever its lock; markers are unknown.
#
# Stricter than the server below, because Google is: a retention is shortened, taken off or made a locked one only with
# overrideUnlockedRetention, and never when it is locked.
import json, re, time, xml.etree.ElementTree
from werkzeug.test import Client

SIGNED = "AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
STATES = {"GOVERNANCE": "Unlocked", "COMPLIANCE": "Locked"}
MODES = {state: mode for mode, state in STATES.items()}
LOCK = "x-amz-object-lock-"
s3 = Client(moto)
generations, versions = {}, {}

def generation(version):
    if version not in generations:
        number = str(max(time.time_ns() // 1000, int(max(versions, key=int, default="0")) + 1))
        generations[version], versions[number] = number, version
    return generations[version]

def ask(method, path, query="", body=b""):
    headers = {"Authorization": SIGNED, "Content-Md5": base64.b64encode(hashlib.md5(body).digest()).decode()}
    answer = s3.open(path, method=method, query_string=query, headers=headers, data=body, base_url=f"http://127.0.0.1:{sys.argv[1]}")
    return answer.status_code, answer.headers, answer.get_data()

def bare(text):
    return re.sub(r' xmlns="[^"]*"', "", text.decode(), count=1)

def enabled(bucket, setting, key):
    status, _, body = ask("GET", f"/{bucket}", setting)
    return status == 200 and xml.etree.ElementTree.fromstring(bare(body)).findtext(key) == "Enabled"

def listed(bucket, query):
    _, _, body = ask("GET", f"/{bucket}", "versions&max-keys=1000000&" + urllib.parse.urlencode({"prefix": query.get("prefix", "")}))
    items = []
    for node in xml.etree.ElementTree.fromstring(bare(body)).iter("Version"):
        item = {"name": node.findtext("Key"), "generation": generation(node.findtext("VersionId")), "timeCreated": node.findtext("LastModified")}
        if node.findtext("IsLatest") != "true":
            item["timeDeleted"] = item["timeCreated"]
        items.append(item)
    items.sort(key=lambda item: (item["name"], int(item["generation"])))
    begin = int(query.get("pageToken", "0"))
    end = begin + int(query.get("maxResults", "1000"))
    page = {"kind": "storage#objects"} | ({"items": items[begin:end]} if items[begin:end] else {})
    return {**page, "nextPageToken": str(end)} if items[end:] else page

def seen(headers):
    found = {}
    if headers.get(LOCK + "mode") and headers.get(LOCK + "retain-until-date"):
        found["retention"] = {"mode": STATES[headers[LOCK + "mode"]], "retainUntilTime": headers[LOCK + "retain-until-date"]}
    if headers.get(LOCK + "legal-hold") == "ON":
        found["temporaryHold"] = True
    return found

def weakens(old, new):
    return not new or new["mode"] != old["mode"] or new["retainUntilTime"] < old["retainUntilTime"]

# A change that Google refuses is answered with its reason, any other one is made.
def change(path, version, old, asked, override):
    if "temporaryHold" in asked:
        status = "ON" if asked["temporaryHold"] else "OFF"
        ask("PUT", path, f"legal-hold&versionId={version}", f"<LegalHold><Status>{status}</Status></LegalHold>".encode())
    if "retention" in asked:
        new = asked["retention"]
        if old and weakens(old, new) and (old["mode"] == "Locked" or not override):
            return "retentionPolicyNotMet"
        mode, until = (MODES[new["mode"]], new["retainUntilTime"]) if new else ("GOVERNANCE", "2000-01-01T00:00:00Z")
        body = f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
        ask("PUT", path, f"retention&versionId={version}", body.encode())
    return None

def error(code, reason):
    return code, {"error": {"code": code, "message": reason, "errors": [{"reason": reason, "message": reason}]}}

def of_object(method, path, query, body):
    if method == "DELETE" and "generation" not in query:
        return ask("DELETE", path)[0], None
    version = versions.get(query.get("generation"))
    status, headers, _ = ask("HEAD", path, f"versionId={version}")
    if version is None or status != 200:
        return error(404, "notFound")
    old = seen(headers)
    if method == "DELETE":
        done = ask("DELETE", path, f"versionId={version}")[0]
        return (204, None) if done == 204 else error(403, "retentionPolicyNotMet")
    if method == "PATCH":
        asked = json.loads(body)
        if not enabled(path.split("/")[1], "object-lock", "ObjectLockEnabled"):
            return error(400, "invalid")
        refused = change(path, version, old.get("retention"), asked, query.get("overrideUnlockedRetention") == "true")
        if refused:
            return error(403, refused)
        old = seen(ask("HEAD", path, f"versionId={version}")[1])
    return 200, {"generation": query["generation"], **old}

def json_api(env, start):
    query = dict(urllib.parse.parse_qsl(env["QUERY_STRING"], keep_blank_values=True))
    body = env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0))
    parts = env["RAW_URI"].partition("?")[0].split("/")
    bucket, method = parts[4], env["REQUEST_METHOD"]
    if len(parts) == 7:
        # A name in this API is one component; what stands in S3's path is the same with its slashes.
        code, answer = of_object(method, f"/{bucket}/{urllib.parse.unquote(parts[6])}", query, body)
    elif len(parts) == 6:
        code, answer = 200, listed(bucket, query)
    else:
        answer = {"versioning": {"enabled": enabled(bucket, "versioning", "Status")}}
        if enabled(bucket, "object-lock", "ObjectLockEnabled"):
            answer["objectRetention"] = {"mode": "Enabled"}
        code = 200
    body = b"" if answer is None else json.dumps(answer).encode()
    start(f"{code} Answer", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]

def refused(start, message, status="400 Bad Request", code="InvalidArgument"):
    start(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()]

def google(env, start):
    if env["RAW_URI"].startswith("/storage/v1/b/"):
        return json_api(env, start)
    env = dict(env)
    wanted = env.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None)
    if wanted not in (None, "0") or any(k.startswith("HTTP_X_AMZ_") for k in env):
        return refused(start, "not of this dialect")
    # A retention lets an object be replaced where versions are kept, a hold does not.
    path = env["RAW_URI"].partition("?")[0]
    if env["REQUEST_METHOD"] == "PUT" and wanted is None and ask("HEAD", path)[1].get(LOCK + "legal-hold") == "ON":
        return refused(start, "the object is under a hold", "403 Forbidden", "ObjectUnderActiveHold")
    if "HTTP_X_GOOG_BUCKET_OBJECT_LOCK_ENABLED" in env:
        env["HTTP_X_AMZ_BUCKET_OBJECT_LOCK_ENABLED"] = env.pop("HTTP_X_GOOG_BUCKET_OBJECT_LOCK_ENABLED")
    if wanted == "0":
        env["HTTP_IF_NONE_MATCH"] = "*"
    else:
        env.pop("HTTP_IF_NONE_MATCH", None) if env["REQUEST_METHOD"] in ("PUT", "POST") else None
    if "HTTP_X_GOOG_OBJECT_LOCK_MODE" in env:
        if not enabled(env["RAW_URI"].split("/")[1], "object-lock", "ObjectLockEnabled"):
            return refused(start, "object retention is not enabled on the bucket")
        for name in ("MODE", "RETAIN_UNTIL_DATE"):
            env["HTTP_X_AMZ_OBJECT_LOCK_" + name] = env.pop("HTTP_X_GOOG_OBJECT_LOCK_" + name)
        body = env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0))
        env["wsgi.input"] = io.BytesIO(body)
        env["HTTP_CONTENT_MD5"] = base64.b64encode(hashlib.md5(body).digest()).decode()
    for place in ("QUERY_STRING", "RAW_URI", "REQUEST_URI"):
        if place in env:
            env[place] = re.sub(r"generation=(\w+)", lambda m: "versionId=" + versions.get(m[1], m[1]), env[place])
    env["HTTP_AUTHORIZATION"] = SIGNED
    def answer(status, headers, *more):
        kept = [(n, v) for n, v in headers if not n.lower().startswith("x-amz-")]
        kept += [("x-goog-generation", generation(v)) for n, v in headers if n.lower() == "x-amz-version-id" and v != "null"]
        return start(status, kept, *more)
    return moto(env, answer)
