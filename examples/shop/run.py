"""`make shop`: the shop on three workers and its payment partner, until Ctrl-C.

    run.py ── partner.py                 somebody else's service, its ledger in .outlive/payments.db
          └── outlive serve ── 3 workers ours, its store in .outlive/shop.db

Kill any of them (kill -9): what is killed is replaced, and nothing is lost or done twice.

    PORT           where the shop listens (8000)
    WORKERS        how many processes serve (3)
    PARTNER_PORT   where the partner listens (any free port)
    OUTLIVE_STORE  the store's address (sqlite:///.outlive/shop.db), or postgresql://…
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from examples.signup.run import HOST, ROOT, Child, free_port

STORE = "sqlite:///.outlive/shop.db"
TRY = """
  Look     {url}/outlive
  Search   curl -i '{url}/search?q=te'
  Sign in  curl -c jar {url}/login --json '{{"name": "ada", "password": "sesame"}}'
  Choose   curl -b jar -X PUT {url}/cart/tea --json '{{"count": 2}}'
  Order    curl -i -b jar -X POST {url}/orders -H 'Idempotency-Key: "order-1"'   (twice)
  Break    kill -9 {victim}
           curl -X PUT {partner}/mood -d '{{"down": true}}'     ('{{}}' mends it)
  Count    curl {partner}/ledger
  More     docs/shop.md
  End      Ctrl-C
"""


def main() -> int:
    port = free_port(int(os.environ.get("PORT") or 8000), "PORT")
    partner_port = free_port(int(os.environ.get("PARTNER_PORT") or 0), "PARTNER_PORT")
    url, partner_url = f"http://{HOST}:{port}", f"http://{HOST}:{partner_port}"
    store = os.environ.get("OUTLIVE_STORE") or STORE
    Path(".outlive").mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    variables = {"PARTNER_URL": partner_url, "OUTLIVE_STORE": store, "PYTHONPATH": path}
    partner = Child(
        "the partner", "-m", "examples.shop.partner", "--port", str(partner_port), **variables
    )
    serve = ("-m", "outlive.commands", "serve", "examples.shop.app:service", "--port", str(port))
    workers = os.environ.get("WORKERS") or "3"
    service = Child("the shop", *serve, "--workers", workers, **variables)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.end())
    said = partner.lines()
    keeper = threading.Thread(target=lambda: [print(line, flush=True) for line in said])
    keeper.start()
    try:
        for line in service.lines():
            print(line, flush=True)
            if line.startswith("outlive ready"):
                victim = line.partition("workers ")[2].split(" · ")[0].split(",")[0]
                print(TRY.format(url=url, partner=partner_url, victim=victim), flush=True)
    finally:
        partner.end()
        keeper.join()
    return service.process.returncode if service.process else 1


if __name__ == "__main__":
    sys.exit(main())
