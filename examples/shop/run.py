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

import sys

from examples.signup.run import Child, Ground, run

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
    ground = Ground(STORE)
    partner = Child(
        "the partner", "-m", "examples.shop.partner", "--port", ground.partner_port,
        **ground.variables,
    )  # fmt: skip
    told = {"url": ground.url, "partner": ground.partner_url}
    return run(
        partner,
        ground.service("the shop", "examples.shop.app:service", "3"),
        lambda victim: TRY.format(victim=victim, **told),
    )


if __name__ == "__main__":
    sys.exit(main())
