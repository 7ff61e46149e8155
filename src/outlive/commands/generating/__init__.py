"""The parts of `outlive generate`: what is worked out from an app, and what is watched.

facts.py      names, addresses, times: what the templates in templates/deploy are filled with
watching.py   what is looked at on a dashboard, and when somebody is to be woken
grafana.py    the dashboard itself
files.py      writes files, and never over others unless that is asked for
"""
