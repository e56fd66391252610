import time, resource
from tests.house.test_odd_requests import *
def test_try(client, olga, make_train):
    make_train(status="running", attempt=1, step=3, total_steps=10)
    client.force_login(olga); client.raise_request_exception=False
    out=open("/tmp/odd_try.txt","w",buffering=1)
    t0=time.time()
    for path in odd_pages():
        if path=="/logout/": continue
        for method in ("get","post"):
            for odd in ODD:
                t=time.time(); data=dict.fromkeys(NAMES, odd.encode("utf-8","surrogatepass"))
                st=ask(client,method,path,data); d=time.time()-t
                if st>=500 or d>1: out.write(f"{method} {path} {odd[:10]!r} {st} {d:.1f}s {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024} MB\n")
    out.write(f"done {time.time()-t0}\n")
    for path in odd_paths():
        t=time.time(); st=ask(client,"get",path,{})
        if st>=500 or time.time()-t>1: out.write(f"get {path[:80]} {st}\n")
    out.write(f"all {time.time()-t0}\n")
