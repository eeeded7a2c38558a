"""The application: a web page and a JSON API that classify, attack and certify uploaded images."""
