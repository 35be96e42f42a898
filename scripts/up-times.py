#!/usr/bin/env python3
"""How long `skep up` takes: figures U1 to U3 of SPECIFICATION.md.

    up-times.py PROGRAM FOLDER             as root, on a computer that does nothing else

U1: start until the API is ready, empty data directory. U2: the same with 30,000 pods of 10 tenants. U3: from `skep tenant create` until the first
container of the new tenant runs, its machine included, with a small image that is loaded. Each several times.
"""
import base64, http.client, json, os, re, shutil, ssl, subprocess, sys, tempfile, threading, time

PROGRAM, FOLDER = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
PORT, TENANTS, PODS_EACH = 17444, 10, 3000
ENV = {k: v for k, v in os.environ.items() if not k.startswith("SKEP_") and k != "KUBECONFIG"}
ENV |= {"SKEP_CONFIG": "", "SKEP_REGISTRY_LISTEN": "127.0.0.1:0", "SKEP_LISTEN": f"127.0.0.1:{PORT}"}


def skep(*words):
    return subprocess.run([PROGRAM, *words], env=ENV, check=True, capture_output=True, text=True).stdout


class Api:
    def __init__(self, data):
        text = open(f"{data}/admin.kubeconfig").read()
        part = lambda key: base64.b64decode(re.search(key + r': *"?([A-Za-z0-9+/=]+)', text).group(1))
        self.context = ssl.create_default_context(cadata=part("certificate-authority-data").decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(part("client-certificate-data") + b"\n" + part("client-key-data"))
            file.flush()
            self.context.load_cert_chain(file.name)
        self.connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=self.context)

    def __call__(self, method, path, body=None):
        text = None if body is None else json.dumps(body)
        self.connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = json.loads(answer.read())
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {content}")
        return content


def pod(name, image, node=None):
    container = {"name": "c", "image": image, "imagePullPolicy": "Never", "command": ["sleep", "1000"],
                 "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}}}
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec | ({"nodeName": node} if node else {})}


def start(figure, data, *more):
    begun = time.time()
    skep("up", "--data", data, *more)
    whole = time.time() - begun
    took = re.findall(r"API server ready.*took_ms=(\d+)", open(f"{data}/skep.log").read())[-1]
    print(f"{figure}: ready {took} ms after the server began; `skep up` took {whole:.3f} s", flush=True)


def fill(data):
    skep("up", "--data", data, "--no-host")
    for number in range(TENANTS):
        skep("tenant", "create", f"t{number}", "--data", data)

    def work(tenant):
        api = Api(data)
        for number in range(PODS_EACH):
            api("POST", f"/tenants/t{tenant}/api/v1/namespaces/default/pods", pod(f"p{number}", "x:1", f"n{number % 100}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(TENANTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    skep("down", "--data", data)


def image(folder):
    os.makedirs(f"{folder}/root/bin")
    shutil.copy("/bin/busybox", f"{folder}/root/bin/sleep")
    subprocess.run(["tar", "cf", "layer.tar", "-C", "root", "."], cwd=folder, check=True)
    digest = subprocess.run(["sha256sum", "layer.tar"], cwd=folder, check=True, capture_output=True, text=True).stdout.split()[0]
    machine = "arm64" if os.uname().machine == "aarch64" else "amd64"
    config = {"architecture": machine, "os": "linux", "config": {"Env": ["PATH=/bin"]},
              "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}
    json.dump(config, open(f"{folder}/config.json", "w"))
    json.dump([{"Config": "config.json", "RepoTags": ["bb:1"], "Layers": ["layer.tar"]}], open(f"{folder}/manifest.json", "w"))
    subprocess.run(["tar", "cf", "image.tar", "manifest.json", "config.json", "layer.tar"], cwd=folder, check=True)
    return f"{folder}/image.tar"


def main():
    os.makedirs(FOLDER)
    data, full = f"{FOLDER}/data", f"{FOLDER}/full"
    fill(full)
    for _ in range(5):
        start("U1", data, "--no-host")
        skep("down", "--data", data)
        shutil.rmtree(data)
    for _ in range(5):
        # Pods of nodes that there are not are removed after a while: each start has a copy.
        shutil.copytree(full, data)
        start("U2", data, "--no-host")
        skep("down", "--data", data)
        shutil.rmtree(data)
    skep("up", "--data", data)
    skep("image", "load", image(f"{FOLDER}/image"), "--data", data)
    api, names = Api(data), [f"s{number}" for number in range(4)]
    for name in names:
        begun = time.time()
        skep("tenant", "create", name, "--data", data)
        pods = f"/tenants/{name}/api/v1/namespaces/default/pods"
        api("POST", pods, pod("first", "bb:1"))
        while api("GET", f"{pods}/first").get("status", {}).get("phase") != "Running":
            if time.time() - begun > 30:
                sys.exit("U3: the container does not run within 30 s")
            time.sleep(0.005)
        print(f"U3: {time.time() - begun:.3f} s", flush=True)
    skep("tenant", "delete", *names, "--data", data)
    skep("down", "--data", data)


main()
