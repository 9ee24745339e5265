"""Certified policies on real images, over HTTP: is the promise kept, and is it noticed when it no longer can be?"""
