"""Exit with 0 where the server of this container takes requests; what HEALTHCHECK runs."""

import os
import ssl
import urllib.request

scheme = "https" if os.environ.get("CANDOR_TLS_CERTIFICATE") else "http"
url = f"{scheme}://127.0.0.1:{os.environ.get('CANDOR_PORT', '8000')}/readyz"
urllib.request.urlopen(
    url, timeout=4, context=ssl._create_unverified_context()
)  # its own certificate names another host
