"""The operators' site: Django's own admin under the product's name."""

from django.contrib import admin


class DeepExtensionAdminSite(admin.AdminSite):
    site_header = "DeepExtension"
    site_title = "DeepExtension administration"
    index_title = "Administration"
    # The room is for columns, and everything is a click away on the first page.
    enable_nav_sidebar = False
