from django.contrib.admin.apps import AdminConfig


class DeepExtensionAdminConfig(AdminConfig):
    default_site = "deepextension.admin.DeepExtensionAdminSite"
