/* Stands in for the Pyxis plugin: `srun --container-image=FOLDER --container-mounts=A:B[:ro],...`.
 *
 * An "image" is a folder. The command really runs in it: a mount namespace of its own, the mounts
 * asked for, and a change of the root. Empty folders usr, lib, lib64, bin, etc, proc and dev of an
 * image show those of the host, so that it needs no files of its own. Build:
 *     cc -shared -fPIC -o pyxis_double.so pyxis_double.c
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

SPANK_PLUGIN(pyxis_double, 1)

static const char *image, *mounts, *workdir;

static int remember(int which, const char *value, int remote) {
    const char **places[] = {&image, &mounts, &workdir};
    if (which < 3) *places[which] = strdup(value);
    return 0;
}

static struct spank_option options[] = {
    {"container-image", "FOLDER", "[double] image", 1, 0, remember},
    {"container-mounts", "SRC:DST[:ro],...", "[double] mounts", 1, 1, remember},
    {"container-workdir", "FOLDER", "[double] working folder", 1, 2, remember},
    {"container-env", "NAMES", "[double] ignored", 1, 3, remember},
    {"no-container-mount-home", NULL, "[double] ignored", 0, 3, remember},
    SPANK_OPTIONS_TABLE_END};

int slurm_spank_init(spank_t spank, int count, char **words) {
    for (struct spank_option *option = options; option->name; option++)
        if (spank_option_register(spank, option) != ESPANK_SUCCESS) return -1;
    return 0;
}

static int refuse(const char *what, const char *which) {
    slurm_error("pyxis_double: %s %s: %s", what, which, strerror(errno));
    return -1;
}

static int bind_into_image(const char *source, const char *target, int read_only) {
    char inside[4096];
    struct stat about;
    if (stat(source, &about)) return refuse("mount: no such source", source);
    int used = snprintf(inside, sizeof inside, "%s%s", image, target);
    for (char *slash = inside + strlen(image) + 1; slash < inside + used; slash++)
        if (*slash == '/') {
            *slash = 0;
            mkdir(inside, 0755);
            *slash = '/';
        }
    if (S_ISDIR(about.st_mode)) mkdir(inside, 0755);
    else close(open(inside, O_CREAT | O_WRONLY, 0644));
    if (mount(source, inside, NULL, MS_BIND | MS_REC, NULL)) return refuse("mount", inside);
    if (read_only && mount(NULL, inside, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL))
        return refuse("read-only mount", inside);
    return 0;
}

static int is_empty(const char *folder) {
    int entries = 0;
    DIR *open_folder = opendir(folder);
    if (!open_folder) return 0;
    while (readdir(open_folder)) entries++;
    closedir(open_folder);
    return entries == 2;
}

int slurm_spank_task_init(spank_t spank, int count, char **words) {
    static const char *of_host[] = {"/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev"};
    char *rest;
    if (!image) return 0;
    if (access(image, R_OK | X_OK)) return refuse("no such image", image);
    if (unshare(CLONE_NEWNS)) return refuse("unshare", image);
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    for (size_t i = 0; i < sizeof of_host / sizeof *of_host; i++) {
        char inside[4096];
        snprintf(inside, sizeof inside, "%s%s", image, of_host[i]);
        if (is_empty(inside) && bind_into_image(of_host[i], of_host[i], 0)) return -1;
    }
    for (char *one = mounts ? strtok_r(strdup(mounts), ",", &rest) : NULL; one;
         one = strtok_r(NULL, ",", &rest)) {
        char *parts, *source = strtok_r(one, ":", &parts), *target = strtok_r(NULL, ":", &parts);
        char *flag = target ? strtok_r(NULL, ":", &parts) : NULL;
        if (bind_into_image(source, target ? target : source, flag && !strcmp(flag, "ro")))
            return -1;
    }
    if (chroot(image) || chdir(workdir ? workdir : "/")) return refuse("enter", image);
    return 0;
}
