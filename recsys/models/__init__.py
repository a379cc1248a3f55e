"""Models: functions from interactions to arrays. Only this package imports implicit."""
